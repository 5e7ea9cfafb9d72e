"""Small models with random weights: as the tensors of a file, and as transformers' own."""

import numpy as np
import torch

from engine import BF16, F16, F32, Q4_0, Q8_0, Tensor

ROLES = {
    "embedding": 0,
    "output": 1,
    "output_norm": 2,
    "attn_norm": 16,
    "q": 17,
    "k": 18,
    "v": 19,
    "o": 20,
    "q_bias": 21,
    "k_bias": 22,
    "v_bias": 23,
    "q_norm": 24,
    "k_norm": 25,
    "ffn_norm": 26,
    "gate": 27,
    "up": 28,
    "down": 29,
}


def encode(values, dtype):
    """f32 (rows, cols) as the bytes of a file, and the values that these mean."""
    if dtype == F32:
        return values.astype(np.float32), values
    if dtype == F16:
        half = values.astype(np.float16)
        return half, half.astype(np.float32)
    if dtype == BF16:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
        return bits.astype(np.uint16), (bits << 16).astype(np.uint32).view(np.float32)
    blocks = values.reshape(-1, 32)
    levels = 127 if dtype == Q8_0 else 7
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / levels).astype(np.float16)
    codes = np.rint(blocks / np.maximum(scale.astype(np.float32), 1e-12))
    codes = np.clip(codes, -levels - (dtype == Q4_0), levels)
    meant = (codes * scale.astype(np.float32)).reshape(values.shape).astype(np.float32)
    if dtype == Q8_0:
        data = np.concatenate([scale.view(np.uint8), codes.astype(np.int8).view(np.uint8)], axis=1)
    else:
        nibbles = (codes + 8).astype(np.uint8)
        data = np.concatenate([scale.view(np.uint8), nibbles[:, :16] | nibbles[:, 16:] << 4], axis=1)
    return np.ascontiguousarray(data).reshape(-1), meant


def interleave(values, config):
    """Rows of Q or K from half-rotation order to that of files of `rope_order` 1."""
    heads = values.reshape(-1, config.head_dim, *values.shape[1:])
    out = np.empty_like(heads)
    half = config.head_dim // 2
    out[:, 0::2] = heads[:, :half]
    out[:, 1::2] = heads[:, half:]
    return out.reshape(values.shape)


def transformers_model(config, **more):
    """A model of a config in transformers, with weights of its own making; `more` goes into its config."""
    import transformers

    c = config
    name = ("Llama", "Qwen2", "Qwen3")[c.architecture]
    made = getattr(transformers, name + "Config")(
        hidden_size=c.dim,
        intermediate_size=c.ff_dim,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab_size,
        max_position_embeddings=c.context,
        rms_norm_eps=c.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        tie_word_embeddings=bool(c.tied),
        **more,
    )
    return getattr(transformers, name + "ForCausalLM")(made)


class RandomModel:
    """Weights of a config. `dtype` is that of its matrices in the file; vectors are F32."""

    def __init__(self, config, dtype, seed=1, scale=1.0):
        self.config = c = config
        self.dtype = dtype
        rng = np.random.default_rng(seed)
        q_dim, kv_dim = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.tensors, self.values = [], {}

        def matrix(name, layer, rows, cols, std):
            values = (rng.standard_normal((rows, cols)) * std).astype(np.float32)
            data, meant = encode(values, dtype)
            if name in ("q", "k") and c.rope_order == 1:
                data = encode(interleave(values, c), dtype)[0]
            self.values[name, layer] = meant
            self.tensors.append(Tensor(ROLES[name], layer, dtype, rows, cols, data))

        def vector(name, layer, size, values):
            values = values.astype(np.float32)
            self.values[name, layer] = values
            stored = values
            if name in ("q_bias", "k_bias", "q_norm", "k_norm") and c.rope_order == 1:
                stored = interleave(values, c)
            self.tensors.append(Tensor(ROLES[name], layer, F32, 1, size, stored))

        def near_one(size):
            return 1 + 0.1 * rng.standard_normal(size)

        matrix("embedding", -1, c.vocab_size, c.dim, 1.0)
        for layer in range(c.layers):
            vector("attn_norm", layer, c.dim, near_one(c.dim))
            matrix("q", layer, q_dim, c.dim, scale * 1.5 * c.dim**-0.5)
            matrix("k", layer, kv_dim, c.dim, scale * 1.5 * c.dim**-0.5)
            matrix("v", layer, kv_dim, c.dim, c.dim**-0.5)
            matrix("o", layer, c.dim, q_dim, q_dim**-0.5)
            if c.qkv_bias:
                vector("q_bias", layer, q_dim, 0.5 * rng.standard_normal(q_dim))
                vector("k_bias", layer, kv_dim, 0.5 * rng.standard_normal(kv_dim))
                vector("v_bias", layer, kv_dim, 0.5 * rng.standard_normal(kv_dim))
            if c.qk_norm:
                vector("q_norm", layer, c.head_dim, near_one(c.head_dim))
                vector("k_norm", layer, c.head_dim, near_one(c.head_dim))
            vector("ffn_norm", layer, c.dim, near_one(c.dim))
            matrix("gate", layer, c.ff_dim, c.dim, c.dim**-0.5)
            matrix("up", layer, c.ff_dim, c.dim, c.dim**-0.5)
            matrix("down", layer, c.dim, c.ff_dim, c.ff_dim**-0.5)
        vector("output_norm", -1, c.dim, near_one(c.dim))
        if not c.tied:
            matrix("output", -1, c.vocab_size, c.dim, c.dim**-0.5)

    def transformers(self, dtype):
        """The same model in transformers, on the GPU."""
        c = self.config
        model = transformers_model(c)
        places = {
            "embedding": "model.embed_tokens.weight",
            "output": "lm_head.weight",
            "output_norm": "model.norm.weight",
            "attn_norm": "input_layernorm.weight",
            "q": "self_attn.q_proj.weight",
            "k": "self_attn.k_proj.weight",
            "v": "self_attn.v_proj.weight",
            "o": "self_attn.o_proj.weight",
            "q_bias": "self_attn.q_proj.bias",
            "k_bias": "self_attn.k_proj.bias",
            "v_bias": "self_attn.v_proj.bias",
            "q_norm": "self_attn.q_norm.weight",
            "k_norm": "self_attn.k_norm.weight",
            "ffn_norm": "post_attention_layernorm.weight",
            "gate": "mlp.gate_proj.weight",
            "up": "mlp.up_proj.weight",
            "down": "mlp.down_proj.weight",
        }
        state = {}
        for (role, layer), values in self.values.items():
            place = places[role] if layer < 0 else f"model.layers.{layer}.{places[role]}"
            state[place] = torch.from_numpy(np.array(values))
        if c.tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, strict=True)
        return model.to(device="cuda", dtype=dtype).eval()
