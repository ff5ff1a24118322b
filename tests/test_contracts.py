"""What is built on of Ray, Gymnasium, transformers and vLLM, beyond what they promise to keep.

A library that moves one of these places fails here with a sentence that names the place and who builds on it, before
hundreds of other tests fail for reasons that have to be searched for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("espo_env", "espo_algo")

LEARNER = "ray.rllib.core.learner.torch.torch_learner:TorchLearner"
LEARNERS = "ray.rllib.core.learner.learner_group:LearnerGroup"
RUNNERS = "ray.rllib.env.env_runner_group:EnvRunnerGroup"
ACTORS = "ray.rllib.utils.actor_manager:FaultTolerantActorManager"
ALGORITHM = "ray.rllib.algorithms.algorithm:Algorithm"
CONFIG = "ray.rllib.algorithms.algorithm_config:AlgorithmConfig"
CACHE = "transformers.cache_utils"
RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"

CONTRACTS = {
    # Which of two adapters on one model is computed with.
    "peft.tuners.tuners_utils:BaseTunerLayer._active_adapter": ("learning/lora.py", ""),
    # The update: hooks around Learner.update, and what RLlib keeps of its optimisers and schedules.
    f"{LEARNER}._create_iterator_if_necessary": (
        "learning/learner.py",
        "training_data num_total_minibatches num_epochs minibatch_size shuffle_batch_per_epoch",
    ),
    f"{LEARNER}._uncompiled_update": ("learning/learner.py", "batch"),
    f"{LEARNER}._set_slicing_by_batch_id": ("learning/learner.py", "batch value"),
    f"{LEARNER}.compute_loss_for_module": ("learning/learner.py", "module_id config batch fwd_out"),
    f"{LEARNER}.configure_optimizers_for_module": ("learning/learner.py", "module_id config"),
    f"{LEARNER}.after_gradient_based_update": ("learning/learner.py", "timesteps"),
    f"{LEARNER}._map_module_to_device": ("learning/learner.py", "module"),
    f"{LEARNER}._make_modules_ddp_if_necessary": ("learning/learner.py", ""),
    f"{LEARNER}._named_optimizers": ("learning/learner.py", ""),
    f"{LEARNER}._set_optimizer_state": ("learning/learner.py", "state"),
    f"{LEARNER}.register_optimizer": (
        "learning/learner.py",
        "module_id optimizer_name optimizer params lr_or_lr_schedule",
    ),
    f"{LEARNER}.get_optimizer": ("learning/learner.py", "module_id optimizer_name"),
    f"{LEARNER}._set_optimizer_lr": ("learning/learner.py", "optimizer lr"),
    f"{LEARNER}._optimizer_parameters": ("learning/learner.py", ""),
    f"{LEARNER}._optimizer_lr_schedules": ("learning/learner.py", ""),
    f"{LEARNER}._weights_seq_no": ("learning/learner.py", ""),
    f"{LEARNER}._check_component": ("learning/learner.py", "name components not_components"),
    "ray.rllib.algorithms.ppo.ppo_learner:PPOLearner.curr_kl_coeffs_per_module": ("learning/learner.py", ""),
    "ray.rllib.algorithms.ppo.ppo_learner:PPOLearner.entropy_coeff_schedulers_per_module": ("learning/learner.py", ""),
    "ray.rllib.core.learner.training_data:TrainingData.shard": ("learning/training_data.py", ""),
    "ray.rllib.core.learner.training_data:TrainingData.episodes": ("learning/training_data.py", ""),
    f"{LEARNERS}.get_state": ("learning/learner_group.py", "components not_components"),
    f"{LEARNERS}.save_to_path": ("learning/learner_group.py", "path state"),
    f"{LEARNERS}._get_subcomponents": ("learning/learner_group.py", "name components"),
    f"{CONFIG}.build_learner_group": ("config.py", "env spaces rl_module_spec placement_group"),
    # Calls that wait for every answer.
    f"{LEARNERS}._worker_manager": ("weight_sync/calls.py", ""),
    f"{LEARNERS}.foreach_learner": ("weight_sync/calls.py", "func timeout_seconds"),
    f"{LEARNERS}.is_local": ("weight_sync/calls.py", ""),
    f"{LEARNERS}.update": ("weight_sync/calls.py", "training_data timesteps"),
    f"{RUNNERS}._worker_manager": ("weight_sync/calls.py", ""),
    f"{RUNNERS}.foreach_env_runner": ("weight_sync/calls.py", "func local_env_runner timeout_seconds"),
    f"{RUNNERS}.healthy_worker_ids": ("espo.py", ""),
    f"{RUNNERS}.probe_unhealthy_env_runners": ("espo.py", ""),
    f"{RUNNERS}.num_healthy_remote_workers": ("espo.py", ""),
    f"{ACTORS}.actors": ("weight_sync/calls.py", ""),
    f"{ACTORS}.healthy_actor_ids": ("weight_sync/calls.py", ""),
    f"{ACTORS}.set_actor_state": ("weight_sync/calls.py", "actor_id healthy"),
    f"{ACTORS}.foreach_actor": ("weight_sync/calls.py", "func kwargs timeout_seconds"),
    # The algorithm and its configuration.
    f"{ALGORITHM}.training_step": ("espo.py", ""),
    f"{ALGORITHM}.evaluate": ("espo.py", "parallel_train_future"),
    f"{ALGORITHM}.restore_env_runners": ("espo.py", "env_runner_group"),
    f"{ALGORITHM}._check_component": ("espo.py", "name components not_components"),
    f"{CONFIG}._model_config_auto_includes": ("config.py", ""),
    f"{CONFIG}._value_error": ("config.py", "errmsg"),
    f"{CONFIG}._dont_auto_sync_env_runner_states": ("config.py", ""),
    f"{CONFIG}._learner_class": ("schema/check.py", ""),
    f"{CONFIG}.get_evaluation_config_object": ("config.py", ""),
    "ray.rllib.core.rl_module.torch.torch_rl_module:TorchRLModule._forward": ("learning/rl_module.py", "batch"),
    "ray.rllib.core.rl_module.torch.torch_rl_module:TorchRLModule._forward_train": ("learning/rl_module.py", "batch"),
    "ray.tune.registry:_global_registry.contains": ("rollout/environment.py", "category key"),
    "ray.tune.registry:_global_registry.get": ("rollout/environment.py", "category key"),
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER": ("local_ray.py", ""),
    "ray.rllib.env.single_agent_env_runner:SingleAgentEnvRunner._env_to_module": ("stock_adaptation.py", ""),
    # Gymnasium's vector environments.
    "gymnasium.vector:VectorEnv._add_info": ("espo_env/token_vector_env.py", "vector_infos env_info env_num"),
    "gymnasium.vector:VectorWrapper._add_info": (
        "espo_env/wrappers/vector_regret_termination.py",
        "vector_infos env_info env_num",
    ),
    "gymnasium.vector:AutoresetMode.NEXT_STEP": ("espo_env/token_vector_env.py", ""),
    "gymnasium.vector:AutoresetMode.SAME_STEP": ("espo_env/token_vector_env.py", ""),
    "gymnasium.vector:AutoresetMode.DISABLED": ("espo_env/token_vector_env.py", ""),
    "gymnasium.vector.utils:batch_space": ("espo_env/token_vector_env.py", "space n"),
    # transformers' caches and models.
    f"{CACHE}:Cache.__init__": ("rollout/embedded/kv_cache.py", "layers"),
    f"{CACHE}:DynamicLayer.lazy_initialization": ("rollout/embedded/kv_cache.py", "key_states value_states"),
    f"{CACHE}:DynamicLayer.update": ("rollout/embedded/kv_cache.py", "key_states value_states"),
    f"{CACHE}:DynamicLayer.get_mask_sizes": ("rollout/embedded/kv_cache.py", "query_length"),
    f"{CACHE}:DynamicLayer.get_seq_length": ("rollout/embedded/kv_cache.py", ""),
    f"{CACHE}:DynamicLayer.reset": ("rollout/embedded/kv_cache.py", ""),
    f"{CACHE}:DynamicLayer.is_initialized": ("rollout/embedded/kv_cache.py", ""),
    f"{CACHE}:DynamicSlidingWindowLayer": ("learning/model.py", "sliding_window"),
    "transformers:PretrainedConfig._attn_implementation": ("rollout/embedded/engine.py", ""),
    "transformers:AttentionInterface.register": ("rollout/embedded/attention.py", "key value"),
    "transformers.integrations.sdpa_attention:sdpa_attention_forward": (
        "rollout/embedded/attention.py",
        "module query key value attention_mask dropout scaling",
    ),
    "transformers:PreTrainedModel.base_model": ("learning/model.py", ""),
    "transformers:PreTrainedModel._no_split_modules": ("learning/sharding.py", ""),
    "transformers:PreTrainedModel.get_output_embeddings": ("learning/model.py", ""),
    # vLLM's model runner, sampler, scheduler and arguments.
    f"{RUNNER}.sampler": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.input_batch": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.requests": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.discard_request_mask": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.attn_groups": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.get_model": ("rollout/vllm/worker.py", ""),
    f"{RUNNER}.reload_weights": ("rollout/vllm/worker.py", "weights_iterator is_checkpoint_format"),
    "vllm.v1.worker.gpu_input_batch:InputBatch.req_ids": ("rollout/vllm/worker.py", ""),
    "vllm.v1.outputs:SamplerOutput": ("rollout/vllm/worker.py", "sampled_token_ids logprobs_tensors"),
    "vllm.model_executor.models:ModelRegistry.models": ("rollout/vllm/worker.py", ""),
    "vllm.model_executor.models:ModelRegistry.register_model": ("rollout/vllm/worker.py", "model_arch model_cls"),
    "vllm.distributed:get_tp_group": ("rollout/vllm/worker.py", ""),
    "vllm:LLMEngine.add_request": ("rollout/vllm/engine.py", "request_id prompt params"),
    "vllm:LLMEngine.step": ("rollout/vllm/engine.py", ""),
    "vllm:LLMEngine.abort_request": ("rollout/vllm/engine.py", "request_ids"),
    "vllm:LLMEngine.collective_rpc": ("rollout/vllm/engine.py", "method args kwargs"),
    "vllm:LLMEngine.reset_prefix_cache": ("rollout/vllm/engine.py", ""),
    "vllm:LLMEngine.sleep": ("rollout/vllm/engine.py", "level"),
    "vllm:LLMEngine.is_sleeping": ("rollout/vllm/engine.py", ""),
    "vllm:EngineArgs": (
        "rollout/vllm/start.py",
        "worker_extension_cls additional_config async_scheduling load_format skip_tokenizer_init max_num_seqs",
    ),
    "vllm:SamplingParams": ("rollout/vllm/engine.py", "extra_args stop_token_ids output_kind"),
}
"""Place in a library -> (file that builds on it, names that it has to take)."""

INHERITED = {
    "espo_algo.espo:ESPO",
    "espo_algo.config:ESPOConfig",
    "espo_algo.learning.training_data:WholeEpisodeTrainingData",
    "espo_algo.learning.learner:ESPOLearner",
    "espo_algo.learning.learner_group:ESPOLearnerGroup",
    "espo_algo.learning.rl_module:LanguageModelRLModule",
    "espo_algo.rollout.env_runner:ESPOEnvRunner",
    "espo_algo.rollout.embedded.kv_cache:_SlotLayer",
    "espo_env.token_env:TokenGenerationEnv",
    "espo_env.token_vector_env:TokenGenerationVectorEnv",
    "espo_env.wrappers:RegretTermination",
    "espo_env.wrappers:VectorRegretTermination",
}
"""Classes whose methods the libraries call by the names that these have in the base classes."""


def installed(place: str) -> str:
    """A library with its version."""
    library = place.partition(".")[0].partition(":")[0]
    for name in (library, f"{library}-cpu"):
        try:
            return f"{library} {version(name)}"
        except PackageNotFoundError:
            continue
    pytest.skip(f"{library} is not installed")


def has(owner: Any, name: str) -> bool:
    """As an attribute of the class, or as one that its constructors set."""
    if hasattr(owner, name):
        return True
    classes = [base for base in inspect.getmro(owner) if base is not object] if inspect.isclass(owner) else []
    return any(
        name in vars(base).get("__annotations__", {}) or re.search(rf"self\.{name}\b\s*(:|=)", inspect.getsource(base))
        for base in classes
        if base.__module__ not in ("builtins", "abc", "typing", "enum")
    )


def complaint(place: str, user: str, takes: str = "") -> str | None:
    """The sentence about a place that has moved, or None."""
    module, _, path = place.partition(":")
    why = f"{installed(place)} has moved {place}, which {user} builds on"
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return f"{why}: there is no module {module}"
    for name in path.split("."):
        if not has(found, name):
            return f"{why}: there is no {name}"
        found = getattr(found, name, None)
    if found is None or not takes:
        return None
    missing = [name for name in takes.split() if name not in inspect.signature(found).parameters]
    return f"{why}: it does not take {', '.join(missing)} any more" if missing else None


@pytest.mark.parametrize("place", CONTRACTS)
def test_what_is_built_on_is_where_it_was(place):
    user, takes = CONTRACTS[place]
    assert (ROOT / "espo_algo" / user).is_file() or (ROOT / user).is_file()
    if sentence := complaint(place, user, takes):
        pytest.fail(sentence, pytrace=False)


@pytest.mark.parametrize("place", sorted(INHERITED))
def test_overridden_methods_take_what_the_libraries_pass(place):
    module, _, name = place.partition(":")
    own = getattr(importlib.import_module(module), name)
    for method, function in vars(own).items():
        base = next((vars(b)[method] for b in own.__mro__[1:] if method in vars(b)), None)
        if not (inspect.isfunction(function) and inspect.isfunction(base)):
            continue
        takes = inspect.signature(function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()) or method == "__init__":
            continue
        named = [
            p for p in inspect.signature(base).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        room = any(p.kind is p.VAR_POSITIONAL for p in takes.values()) or len(takes) >= len(named)
        missing = [p.name for p in named if p.name not in takes and (p.kind is p.KEYWORD_ONLY or not room)]
        if missing:
            pytest.fail(
                f"{base.__module__} passes {', '.join(missing)} to {method}, which {place} does not take",
                pytrace=False,
            )


class File:
    """Names with an underscore that a file reads of objects that are not its own."""

    def __init__(self, path: Path):
        self.tree = ast.parse(path.read_text("utf-8"))

    @cached_property
    def own(self) -> set[str]:
        """What the file defines or sets itself."""
        nodes = [*ast.walk(self.tree)]
        defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assigned = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
        return defined | assigned | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

    @cached_property
    def private(self) -> set[str]:
        read = {n.attr for n in ast.walk(self.tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
        imported = {
            alias.name
            for n in ast.walk(self.tree)
            if isinstance(n, ast.ImportFrom) and not (n.module or "").startswith(OURS)
            for alias in n.names
        }
        return {name for name in read | imported if re.match("_[a-z]", name)} - self.own


NAMEDTUPLE = {"_asdict", "_fields", "_replace"}
"""Public, for all their underscores."""


def test_every_private_name_of_a_library_has_its_contract():
    known = {part for place in CONTRACTS for part in re.split("[.:]", place)} | NAMEDTUPLE
    files = [path for package in OURS for path in (ROOT / package).rglob("*.py")]
    missing = {
        f"{name} ({path.relative_to(ROOT)})" for path in files for name in File(path).private if name not in known
    }
    assert not missing, f"write a contract into {Path(__file__).name} for: {', '.join(sorted(missing))}"


def test_a_place_that_has_moved_is_named_in_a_sentence():
    moved = {
        "ray.rllib.core.learner.learner:Learner._no_such_hook": "there is no _no_such_hook",
        "ray.rllib.no_such_module:Learner": "there is no module ray.rllib.no_such_module",
        "gymnasium.vector.utils:batch_space": "it does not take slots any more",
    }
    for place, end in moved.items():
        sentence = complaint(place, "config.py", "slots")
        assert re.fullmatch(
            rf"(ray|gymnasium) [\d.]+ has moved {re.escape(place)}, which config.py builds on: {end}", sentence
        )
