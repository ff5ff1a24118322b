"""A backend of vLLM's weight transfer for machines without GPUs: a file. Everything but the wire is vLLM's and ours.

Importing it registers the backend where vLLM is installed; an environment with this module's task imports it in the
runners.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from coin_task import CoinTask

from espo_algo.rollout.engines import ENGINES

__all__ = ["ENGINE", "CoinTask"]

ENGINE = replace(ENGINES["vllm"], weight_transfers=("file",))

with contextlib.suppress(ImportError):
    from safetensors.torch import load_file, save_file
    from vllm.distributed.weight_transfer.base import (
        TrainerInitInfo,
        TrainerWeightTransferEngine,
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    from espo_algo.weight_sync.vllm_sender import BACKENDS, Backend

    @dataclass
    class FileInit(WeightTransferInitInfo):
        rank_offset: int

    @dataclass
    class FileUpdate(WeightTransferUpdateInfo):
        file: str

    @dataclass
    class FileTrainerInit(TrainerInitInfo):
        backend = "file"

    class FileReceiver(WeightTransferEngine):
        init_info_cls = FileInit
        update_info_cls = FileUpdate

        def init_transfer_engine(self, init_info: FileInit) -> None:
            self.rank = init_info.rank_offset

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def receive_weights(self, update_info: FileUpdate) -> None:
            self.model.load_weights(list(load_file(update_info.file).items()))
            Path(f"{update_info.file}.{self.rank}").touch()

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            pass

    class FileSender(TrainerWeightTransferEngine):
        init_info_cls = FileTrainerInit
        times_hung_up = 0

        @classmethod
        def trainer_init(cls, init_info, *, client, source=None):
            if init_info.is_sender:
                client.init_weight_transfer_engine({"rank_offset": 1})
            return cls(client=client, source=source, is_sender=init_info.is_sender)

        def send_weights(self) -> None:
            weights, declared = dict(self.source), self.source.metadata
            for meta in declared() if callable(declared) else declared:  # a method up to vLLM 0.32
                assert (weights[meta.name].dtype, weights[meta.name].shape) == (meta.dtype, meta.shape)
            if not self.is_sender:
                return
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder, "weights.safetensors"))
                save_file(weights, file)
                self.client.start_weight_update()
                self.client.update_weights({"file": file})
                received = sorted(int(path.suffix[1:]) for path in Path(folder).glob("*.safetensors.*"))
                assert received == list(range(1, len(received) + 1)) != [], received
                self.client.finish_weight_update()

        def shutdown(self) -> None:
            FileSender.times_hung_up += 1

    WeightTransferEngineFactory.register_engine("file", FileReceiver)
    WeightTransferTrainerFactory.register_engine("file", FileSender)

    def open_file(client, source, rank, num_workers, timeout):
        return WeightTransferTrainerFactory.trainer_init(FileTrainerInit(rank=rank), client=client, source=source)

    BACKENDS["file"] = Backend(open_file, collective=False)
