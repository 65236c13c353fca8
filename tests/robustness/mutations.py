"""Seeded damage to the JSON files of a model's folder: what a careless or hostile hand could write into them."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 1.5, -0.5, 10**4, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "text", "9", "é\u202e\x1b[31m", "\ud800", "a\nb", "x" * 10_000),
    *([], [[]], {}, {"a": {"b": [1]}}, [None], [0.5, "x"], [10**9] * 4, [1] * 10_000, {"0": "cat"}, {"cat": 0}),
]
DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = ["", "null", "[]", "3", '"text"', "{", "}", "{]", DEEP, '{"a":' * 50_000, "\ufeff{}", "\x00" * 64, "9" * 10_000]
# Fields that transformers gives a meaning, whichever file they stand in.
FOREIGN = [
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
    *("quantization_config", "torch_dtype", "dtype", "architectures", "auto_map", "configuration_files", "num_labels"),
    *("per_layer_config", "rope_scaling", "rope_theta", "tie_word_embeddings", "pruned_heads", "is_encoder_decoder"),
    *("output_attentions", "output_hidden_states", "return_dict", "return_unused_kwargs", "use_return_dict"),
    *(
        "problem_type",
        "name_or_path",
        "_name_or_path",
        "_commit_hash",
        "torchscript",
        "use_bfloat16",
        "trust_remote_code",
    ),
    *("image_processor_type", "feature_extractor_type", "processor_class", "text_config", "transformers_version"),
    *("out_features", "out_indices", "_out_features", "stage_names", "layer_types", "kwargs", "self", "cls"),
]
NAMES = [*FOREIGN, "", "\ud800", "a\nb", "__float__", "__proto__", "x" * 10_000]
WORDS = [
    "float99",
    "nn",
    "float32",
    "int8",
    "torch.float16",
    "auto",
    "kernels-community/attn",
    "flash_attention_2",
    "os",
]


def mutations(content: dict[str, Any], shadowed: list[str], seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """What was done, and the text of the file; `shadowed` are names of attributes of the class that reads it."""
    chance = random.Random(seed)
    for number in range(count):
        if number % 20 == 0:
            text = chance.choice(TEXTS)
            how, data = f"text {text[:20]!r}", text.encode(chance.choice(["utf-8", "utf-8", "utf-16"]))
        else:
            changed = json.loads(json.dumps(content))
            how = "; ".join(_change(changed, shadowed, chance) for _ in range(chance.choice([1, 1, 1, 2, 3])))
            data = json.dumps(changed).encode()
            if number % 50 == 1:
                data, how = data[: chance.randrange(len(data))], "cut short"
            elif number % 50 == 2:
                place = chance.randrange(len(data))
                data, how = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :], f"byte {place} changed"
        yield how, data


def _change(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    change: Callable[[dict[str, Any], list[str], random.Random], str] = chance.choice(
        [_delete, _retype, _retype, _inside, _inside, _add, _add, _labels]
    )
    return change(content, shadowed, chance)


def _delete(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    name = chance.choice(sorted(content) or [""])
    content.pop(name, None)
    return f"without {name}"


def _retype(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    name = chance.choice(sorted(content) or ["depths"])
    content[name] = chance.choice([*VALUES, *WORDS])
    return f"{name} = {content[name]!r:.60}"


def _inside(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    names = [name for name, value in sorted(content.items()) if isinstance(value, (list, dict)) and value]
    if not names:
        return _retype(content, shadowed, chance)
    name = chance.choice(names)
    value = content[name]
    key = chance.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
    if chance.random() < 0.2:
        del value[key]
    elif isinstance(value, list) and chance.random() < 0.2:
        value *= chance.choice([2, 100])
    else:
        value[key] = chance.choice([*VALUES, 8, 64, 100, 4096, 10**5])
    return f"{name}[{key}] -> {content[name]!r:.60}"


def _add(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    name = chance.choice(chance.choice([NAMES, FOREIGN, shadowed or NAMES]))
    content[name] = chance.choice(
        [*VALUES, *WORDS, {"quant_method": "bitsandbytes"}, {"AutoImageProcessor": "evil.Evil"}]
    )
    return f"new {name!r:.40} = {content[name]!r:.60}"


def _labels(content: dict[str, Any], shadowed: list[str], chance: random.Random) -> str:
    if "id2label" not in content:
        return _add(content, shadowed, chance)
    names = ["cat", "dog", "LABEL_0", "LABEL_1", "", "a\nb", "\ud800"]
    ids = ["0", "1", "2", "4", "01", "-1", "x", "1e3", "99999999999"]
    content["id2label"] = {chance.choice(ids): chance.choice(names) for _ in range(chance.randrange(4))}
    if chance.random() < 0.7:
        content["label2id"] = {chance.choice(names): chance.choice([0, 1, "1", *VALUES]) for _ in range(3)}
    return f"labels {content['id2label']!r} {content.get('label2id')!r:.60}"
