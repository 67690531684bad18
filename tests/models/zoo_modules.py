"""Untrained networks of many families, for import, inference and pruning tests.

`MODULES` maps a name to a function that builds a `Sample`: a PyTorch module with a feed. Widths are reduced where the
family allows it, so that a file stays small; nothing is degenerate (see `randomise`).
"""

import contextlib
import dataclasses
import functools

import torch
import torchvision
import transformers
from torch import nn
from torch.nn import functional

MODULES = {}

# The fused attention of nn.MultiheadAttention has no ONNX form.
torch.backends.mha.set_fastpath_enabled(False)


@dataclasses.dataclass
class Sample:
    """A module, a feed by input name, and the axes of each input that may be symbolic."""

    module: nn.Module
    feed: dict
    dynamic: dict


def register(name):
    def add(builder):
        MODULES[name] = builder
        return builder

    return add


# --- feeds


def noise(*shape):
    """Normal noise in steps of 1/32, which compresses well."""
    return torch.round(torch.randn(*shape) * 32) / 32


def image(size, channels=3):
    return {"pixels": noise(2, channels, size, size)}, {"pixels": {0: "batch"}}


def tokens(vocabulary, length=12):
    """Two sequences; the second one ends with padding."""
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, length - 3 :] = 0
    feed = {"input_ids": torch.randint(3, vocabulary, (2, length)), "attention_mask": mask}
    return feed, {name: {0: "batch", 1: "sequence"} for name in feed}


# --- weights


def randomise(module):
    """Gives every parameter a value that matters: no zero biases, unit scales or vanishing layer scales are left."""
    with torch.no_grad():
        for part in module.modules():
            weight = getattr(part, "weight", None)
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                weight.fill_(1)
            elif isinstance(part, nn.Embedding):
                weight.normal_(0, 0.5)
            elif isinstance(part, transformers.pytorch_utils.Conv1D):
                weight.normal_(0, weight.shape[0] ** -0.5)
            elif isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not hasattr(part, "parametrizations"):
                weight.normal_(0, 1.2 * weight[0].numel() ** -0.5)
        for parameter in module.parameters():
            low, high = parameter.min(), parameter.max()
            if low == high == 0:
                parameter.normal_(0, 0.1)
            elif low == high == 1:
                parameter.uniform_(0.5, 1.5)
            elif low == high:
                parameter.uniform_(0.2, 0.6)


def calibrate(module, feed):
    """Sets the statistics of batch norms to those of the feed, with some jitter."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        if norms:
            module(**feed)
        for norm, momentum in zip(norms, momenta):
            norm.eval()
            norm.momentum = momentum
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.1 * spread * torch.randn_like(spread)
            norm.running_var *= 0.8 + 0.4 * torch.rand_like(spread)
            norm.running_var += 0.1 * norm.running_var.mean() + 1e-3


def build(name, seed=0):
    """Builds the sample of that name, ready for export."""
    torch.manual_seed(seed)
    sample = MODULES[name]()
    sample.module.eval().requires_grad_(False)
    randomise(sample.module)
    calibrate(sample.module, sample.feed)
    return sample


# --- torchvision


@contextlib.contextmanager
def thinned(factor):
    """Divides the widths of the layers built inside by a factor; widths that are too small or odd stay."""

    def thin(width):
        return width // factor if width % factor == 0 and width >= 8 * factor else width

    conv_init, norm_init, linear_init = nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__

    def conv(self, inputs, outputs, *args, groups=1, **kwargs):
        conv_init(self, thin(inputs), thin(outputs), *args, groups=thin(groups), **kwargs)

    def norm(self, features, *args, **kwargs):
        norm_init(self, thin(features), *args, **kwargs)

    def linear(self, inputs, outputs, *args, **kwargs):
        linear_init(self, thin(inputs), thin(outputs), *args, **kwargs)

    nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__ = conv, norm, linear
    try:
        yield
    finally:
        nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__ = conv_init, norm_init, linear_init


class FirstOutput(nn.Module):
    """Reduces a dictionary or a model output to its first tensor."""

    def __init__(self, inner, key=None):
        super().__init__()
        self.inner, self.key = inner, key

    def forward(self, pixels):
        result = self.inner(pixels)
        return result[self.key] if self.key else result[0]


class Positional(nn.Module):
    """Calls a module whose only argument has another name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return self.inner(pixels)


def vision(name, size=96, factor=1, wrap=Positional, **options):
    """Registers a torchvision network."""

    def builder():
        with thinned(factor) if factor > 1 else contextlib.nullcontext():
            inner = torchvision.models.get_model(name, weights=None, **options)
        return Sample(wrap(inner), *image(size))

    MODULES[f"tv_{name}"] = builder


vision("alexnet", 224, factor=4)
vision("vgg11", 224, factor=4)
vision("vgg16_bn", 224, factor=4)
vision("resnet18")
vision("resnet50", factor=2)
vision("resnext50_32x4d", factor=2)
vision("wide_resnet50_2", factor=4)
vision("densenet121")
vision("googlenet", aux_logits=False, init_weights=False)
vision("inception_v3", 160, factor=2, aux_logits=False, init_weights=False)
vision("squeezenet1_1")
vision("shufflenet_v2_x1_0")
vision("mobilenet_v2")
vision("mobilenet_v3_small")
vision("mobilenet_v3_large")
vision("efficientnet_b0")
vision("efficientnet_v2_s", factor=2)
vision("mnasnet1_0")
vision("regnet_y_400mf")
vision("regnet_x_400mf")
segmentation = functools.partial(vision, wrap=functools.partial(FirstOutput, key="out"), weights_backbone=None)
segmentation("fcn_resnet50", factor=2)
segmentation("deeplabv3_resnet50", factor=4)
segmentation("deeplabv3_mobilenet_v3_large", factor=1)
segmentation("lraspp_mobilenet_v3_large", factor=1)


@register("tv_convnext_tiny")
def convnext_tiny():
    stage = torchvision.models.convnext.CNBlockConfig
    stages = [stage(48, 96, 2), stage(96, 192, 2), stage(192, 384, 3), stage(384, None, 2)]
    return Sample(Positional(torchvision.models.ConvNeXt(stages)), *image(96))


@register("tv_vit")
def vision_transformer():
    inner = torchvision.models.VisionTransformer(64, 16, num_layers=3, num_heads=4, hidden_dim=128, mlp_dim=512)
    return Sample(Positional(inner), *image(64))


def swin(**options):
    inner = torchvision.models.SwinTransformer(
        [4, 4], embed_dim=48, depths=[2, 2, 2], num_heads=[3, 6, 12], window_size=[7, 7], **options
    )
    return Sample(Positional(inner), *image(112))


register("tv_swin_t")(swin)


@register("tv_swin_v2_t")
def swin_v2():
    parts = torchvision.models.swin_transformer
    return swin(block=parts.SwinTransformerBlockV2, downsample_layer=parts.PatchMergingV2)


@register("tv_maxvit")
def maxvit():
    inner = torchvision.models.MaxVit((112, 112), 32, 7, [32, 64, 128], [1, 1, 1], 32, 0.1)
    return Sample(Positional(inner), *image(112))


@register("tv_r3d_18")
def video():
    inner = torchvision.models.video.VideoResNet(
        torchvision.models.video.resnet.BasicBlock,
        [torchvision.models.video.resnet.Conv3DSimple] * 4,
        [1, 1, 1, 1],
        torchvision.models.video.resnet.BasicStem,
    )
    return Sample(Positional(inner), {"pixels": noise(2, 3, 4, 32, 32)}, {"pixels": {0: "batch"}})


# --- transformers


class TextModel(nn.Module):
    """A model over tokens and their mask, without cache, reduced to its first output."""

    def __init__(self, inner, options):
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, **self.options)[0]


SMALL = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 320,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def text(name, model, config, call=None, attention=None, **changes):
    """Registers a transformers model over tokens; `changes` alter the small configuration (None drops a field)."""

    def builder():
        fields = {key: value for key, value in (SMALL | changes).items() if value is not None}
        if attention:
            fields["attn_implementation"] = attention
        inner = getattr(transformers, model)(getattr(transformers, config)(**fields))
        return Sample(TextModel(inner, call or {}), *tokens(fields["vocab_size"]))

    MODULES[f"hf_{name}"] = builder


GROUPED = {"num_key_value_heads": 2}
NO_CACHE = {"use_cache": False}
text("bert", "BertForSequenceClassification", "BertConfig", num_labels=5)
text("bert_eager", "BertModel", "BertConfig", attention="eager")
text("roberta", "RobertaModel", "RobertaConfig", max_position_embeddings=66)
text("albert", "AlbertModel", "AlbertConfig", embedding_size=64)
text("electra", "ElectraModel", "ElectraConfig", embedding_size=64)
text("mpnet", "MPNetModel", "MPNetConfig", max_position_embeddings=66)
text("deberta_v2", "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"],
     position_buckets=16, norm_rel_ebd="layer_norm", share_att_key=True)
text("modernbert", "ModernBertModel", "ModernBertConfig", local_attention=8, num_hidden_layers=3)
SIZES = dict.fromkeys(SMALL)
text("distilbert", "DistilBertModel", "DistilBertConfig", **SIZES | dict(vocab_size=1000, dim=128, n_layers=2, n_heads=4, hidden_dim=320))
GPT2 = SIZES | dict(vocab_size=1000, n_embd=128, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
text("gpt2", "GPT2LMHeadModel", "GPT2Config", NO_CACHE, **GPT2)
text("gpt2_eager", "GPT2Model", "GPT2Config", NO_CACHE, "eager", **GPT2)
text("gpt_neo", "GPTNeoModel", "GPTNeoConfig", NO_CACHE, num_layers=2, num_heads=4, num_attention_heads=None,
     num_hidden_layers=None, attention_types=[[["global", "local"], 1]], window_size=8)
text("gpt_neox", "GPTNeoXModel", "GPTNeoXConfig", NO_CACHE)
text("gptj", "GPTJModel", "GPTJConfig", NO_CACHE, **GPT2 | dict(rotary_dim=16))
text("opt", "OPTModel", "OPTConfig", NO_CACHE, intermediate_size=None, ffn_dim=320, word_embed_proj_dim=128)
text("bloom", "BloomModel", "BloomConfig", NO_CACHE, **SIZES | dict(vocab_size=1000, hidden_size=128, n_layer=2, n_head=4))
text("llama", "LlamaForCausalLM", "LlamaConfig", NO_CACHE, **GROUPED)
text("llama_eager", "LlamaModel", "LlamaConfig", NO_CACHE, "eager", **GROUPED)
text("mistral", "MistralModel", "MistralConfig", NO_CACHE, **GROUPED, sliding_window=8)
text("qwen2", "Qwen2Model", "Qwen2Config", NO_CACHE, **GROUPED)
text("qwen3", "Qwen3Model", "Qwen3Config", NO_CACHE, **GROUPED, head_dim=32)
text("gemma", "GemmaModel", "GemmaConfig", NO_CACHE, num_key_value_heads=1, head_dim=32)
text("gemma2", "Gemma2Model", "Gemma2Config", NO_CACHE, **GROUPED, head_dim=32, sliding_window=8, query_pre_attn_scalar=32)
text("phi", "PhiModel", "PhiConfig", NO_CACHE)
text("phi3", "Phi3Model", "Phi3Config", NO_CACHE, **GROUPED)
text("falcon", "FalconModel", "FalconConfig", NO_CACHE)
text("stablelm", "StableLmModel", "StableLmConfig", NO_CACHE, **GROUPED)
text("t5_encoder", "T5EncoderModel", "T5Config", **SIZES | dict(vocab_size=1000, d_model=128, d_kv=32, d_ff=320, num_layers=2, num_heads=4))
text("mt5_encoder", "MT5EncoderModel", "MT5Config", **SIZES | dict(vocab_size=1000, d_model=128, d_kv=32, d_ff=320, num_layers=2, num_heads=4))
text("clip_text", "CLIPTextModel", "CLIPTextConfig")
text("xlm_roberta", "XLMRobertaForTokenClassification", "XLMRobertaConfig", max_position_embeddings=66, num_labels=7)


class Seq2Seq(nn.Module):
    """Encoder and decoder in one pass."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        return self.inner(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )[0]


def seq2seq(inner):
    feed, dynamic = tokens(1000)
    feed["decoder_input_ids"] = torch.randint(3, 1000, (2, 7))
    dynamic["decoder_input_ids"] = {0: "batch", 1: "target"}
    return Sample(Seq2Seq(inner), feed, dynamic)


@register("hf_bart")
def bart():
    sizes = {f"{side}_{what}": value for side in ("encoder", "decoder")
             for what, value in dict(layers=2, attention_heads=4, ffn_dim=320).items()}
    config = transformers.BartConfig(vocab_size=1000, d_model=128, max_position_embeddings=64, **sizes)
    return seq2seq(transformers.BartForConditionalGeneration(config))


@register("hf_t5")
def t5():
    config = transformers.T5Config(vocab_size=1000, d_model=128, d_kv=32, d_ff=320, num_layers=2, num_heads=4)
    return seq2seq(transformers.T5ForConditionalGeneration(config))


class CachedStep(nn.Module):
    """One decoding step with an explicit key-value cache."""

    def __init__(self, inner, layers):
        super().__init__()
        self.inner, self.layers = inner, layers

    def forward(self, input_ids, attention_mask, past_key_0, past_value_0, past_key_1, past_value_1):
        cache = transformers.DynamicCache()
        cache.update(past_key_0, past_value_0, 0)
        cache.update(past_key_1, past_value_1, 1)
        length = past_key_0.shape[2]
        positions = torch.arange(input_ids.shape[1]) + length
        result = self.inner(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache,
            position_ids=positions.unsqueeze(0), use_cache=True,
        )
        layers = cache.layers
        return result[0], layers[0].keys, layers[0].values, layers[1].keys, layers[1].values


@register("hf_llama_cached")
def llama_cached():
    inner = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **GROUPED))
    feed = {"input_ids": torch.randint(3, 1000, (2, 1)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    dynamic = {"input_ids": {0: "batch"}, "attention_mask": {0: "batch", 1: "total"}}
    for layer in range(2):
        for kind in ("key", "value"):
            feed[f"past_{kind}_{layer}"] = noise(2, 2, 8, 32)
            dynamic[f"past_{kind}_{layer}"] = {0: "batch", 2: "past"}
    return Sample(CachedStep(inner, 2), feed, dynamic)


class PixelModel(nn.Module):
    """A transformers model over pixels, reduced to its first output."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return self.inner(pixel_values=pixels)[0]


def pixels(name, model, config, size=64, keep=True, **fields):
    """Registers a transformers model over images."""

    def builder():
        common = dict(image_size=size, patch_size=16, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                      intermediate_size=320) if keep else {}
        inner = getattr(transformers, model)(getattr(transformers, config)(**common | fields))
        return Sample(PixelModel(inner), *image(size))

    MODULES[f"hf_{name}"] = builder


pixels("vit", "ViTForImageClassification", "ViTConfig", num_labels=10)
pixels("deit", "DeiTModel", "DeiTConfig")
pixels("beit", "BeitModel", "BeitConfig", use_relative_position_bias=True)
pixels("dinov2", "Dinov2Model", "Dinov2Config", mlp_ratio=3)
pixels("clip_vision", "CLIPVisionModel", "CLIPVisionConfig")
pixels("siglip_vision", "SiglipVisionModel", "SiglipVisionConfig")
pixels("swin", "SwinModel", "SwinConfig", 64, False, image_size=64, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4)
pixels("convnext", "ConvNextModel", "ConvNextConfig", 64, False, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 2, 1])
pixels("convnextv2", "ConvNextV2Model", "ConvNextV2Config", 64, False, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 2, 1])
pixels("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", 64, False, hidden_sizes=[32, 64, 96, 128],
       depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=64, num_labels=11)
pixels("mobilevit", "MobileViTModel", "MobileViTConfig", 64, False, image_size=64, hidden_sizes=[48, 64, 80],
       neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 192])
pixels("poolformer", "PoolFormerModel", "PoolFormerConfig", 64, False, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1])
pixels("resnet", "ResNetModel", "ResNetConfig", 64, False, embedding_size=32, hidden_sizes=[64, 128, 192], depths=[1, 2, 1])
pixels("levit", "LevitModel", "LevitConfig", 64, False, image_size=64, hidden_sizes=[64, 96, 128],
       num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[16, 16, 16])


class AudioModel(nn.Module):
    """A transformers model over audio or spectrograms."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, features):
        return self.inner(features)[0]


@register("hf_whisper_encoder")
def whisper_encoder():
    config = transformers.WhisperConfig(d_model=128, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=320,
                                        decoder_layers=1, max_source_positions=50, num_mel_bins=40)
    inner = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return Sample(AudioModel(inner), {"features": noise(2, 40, 100)}, {"features": {0: "batch"}})


def speech(model, config):
    fields = SMALL | dict(conv_dim=(64, 64, 64), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
                          num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    inner = getattr(transformers, model)(getattr(transformers, config)(**fields))
    return Sample(AudioModel(inner), {"features": noise(2, 800)}, {"features": {0: "batch"}})


MODULES["hf_wav2vec2"] = functools.partial(speech, "Wav2Vec2Model", "Wav2Vec2Config")
MODULES["hf_hubert"] = functools.partial(speech, "HubertModel", "HubertConfig")


# --- written by hand


def conv_block(inputs, outputs, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Encoder and decoder with skip connections; upsampling learnt, nearest or bilinear."""

    def __init__(self, upsampling, widths=(32, 64, 128)):
        super().__init__()
        self.upsampling = upsampling
        self.down = nn.ModuleList(conv_block(i, o) for i, o in zip((3, *widths), widths))
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        learnt = upsampling == "learnt"
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) if learnt else nn.Conv2d(i, o, 1) for i, o in pairs)
        self.merge = nn.ModuleList(conv_block(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, pixels):
        value, skips = pixels, []
        for block in self.down:
            value = block(value)
            skips.append(value)
            value = functional.max_pool2d(value, 2)
        value = skips.pop()
        for up, merge in zip(self.up, self.merge):
            if self.upsampling != "learnt":
                options = {} if self.upsampling == "nearest" else {"align_corners": False}
                value = functional.interpolate(value, scale_factor=2.0, mode=self.upsampling, **options)
            value = merge(torch.cat([up(value), skips.pop()], dim=1))
        return torch.sigmoid(self.head(value))


for upsampling in ("learnt", "nearest", "bilinear"):
    MODULES[f"unet_{upsampling}"] = lambda upsampling=upsampling: Sample(UNet(upsampling), *image(64))


class TemporalConvolution(nn.Module):
    """Dilated causal convolutions over one axis, with residual branches and gated activations."""

    def __init__(self, width=64):
        super().__init__()
        self.stem = nn.Conv1d(16, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, dilation=2**level) for level in range(4))
        self.mixes = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.head = nn.Linear(width, 8)

    def forward(self, features):
        value = self.stem(features)
        for level, (gate, mix) in enumerate(zip(self.gates, self.mixes)):
            hidden = functional.glu(gate(functional.pad(value, (2 * 2**level, 0))), dim=1)
            value = value + mix(hidden)
        return self.head(value.amax(dim=2))


@register("cnn_1d")
def cnn_1d():
    return Sample(TemporalConvolution(), {"features": noise(2, 16, 100)}, {"features": {0: "batch", 2: "time"}})


class Recurrent(nn.Module):
    """A recurrent classifier over tokens, optionally with a given initial state."""

    def __init__(self, kind, bidirectional, initial):
        super().__init__()
        self.embedding = nn.Embedding(200, 64)
        self.recurrent = getattr(nn, kind)(64, 96, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(96 * (1 + bidirectional), 6)
        self.kind, self.initial = kind, initial

    def forward(self, input_ids, state=None):
        if self.kind == "LSTM" and self.initial:
            state = (state, state * 0.5)
        value, final = self.recurrent(self.embedding(input_ids), state)
        last = final[0] if self.kind == "LSTM" else final
        return self.head(value.mean(dim=1)), last


def recurrent(kind, bidirectional, initial):
    feed, dynamic = {"input_ids": torch.randint(0, 200, (2, 11))}, {"input_ids": {0: "batch", 1: "sequence"}}
    if initial:
        feed["state"] = noise(2 * (1 + bidirectional), 2, 96)
        dynamic["state"] = {1: "batch"}
    return Sample(Recurrent(kind, bidirectional, initial), feed, dynamic)


MODULES["lstm"] = functools.partial(recurrent, "LSTM", False, True)
MODULES["lstm_bidirectional"] = functools.partial(recurrent, "LSTM", True, False)
MODULES["gru"] = functools.partial(recurrent, "GRU", False, True)
MODULES["gru_bidirectional"] = functools.partial(recurrent, "GRU", True, False)
MODULES["rnn"] = functools.partial(recurrent, "RNN", False, True)


class Mixer(nn.Module):
    """MLP-Mixer: dense layers over patches, then over channels."""

    def __init__(self, width=128, patches=16, depth=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 16, stride=16)
        mlp = lambda size, hidden: nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))
        self.over_patches = nn.ModuleList(mlp(patches, 64) for _ in range(depth))
        self.over_channels = nn.ModuleList(mlp(width, 256) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.head = nn.Linear(width, 10)

    def forward(self, pixels):
        value = self.stem(pixels).flatten(2).transpose(1, 2)
        for index, (patches, channels) in enumerate(zip(self.over_patches, self.over_channels)):
            value = value + patches(self.norms[2 * index](value).transpose(1, 2)).transpose(1, 2)
            value = value + channels(self.norms[2 * index + 1](value))
        return self.head(self.norms[-1](value).mean(dim=1))


register("mlp_mixer")(lambda: Sample(Mixer(), *image(64)))


class SqueezeExcite(nn.Module):
    """Residual blocks with channel attention."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        self.stem = conv_block(3, width)
        self.blocks = nn.ModuleList(nn.Sequential(conv_block(width, width), conv_block(width, width)) for _ in range(depth))
        gate = lambda: nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width), nn.Sigmoid())
        self.gates = nn.ModuleList(gate() for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, pixels):
        value = self.stem(pixels)
        for block, gate in zip(self.blocks, self.gates):
            hidden = block(value)
            value = value + hidden * gate(hidden.mean(dim=(2, 3)))[:, :, None, None]
        return self.head(value.mean(dim=(2, 3)))


register("squeeze_excite")(lambda: Sample(SqueezeExcite(), *image(32)))


class Sequential(nn.Module):
    """A plain chain."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels):
        return self.layers(pixels)


@register("mlp")
def mlp():
    layers = nn.Linear(96, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 10), nn.Softmax(-1)
    return Sample(Sequential(*layers), {"pixels": noise(2, 96)}, {"pixels": {0: "batch"}})


@register("autoencoder")
def autoencoder():
    layers = (
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ELU(),
        nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(32), nn.PReLU(32),
        nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1, groups=1), nn.Tanh(),
    )
    return Sample(Sequential(*layers), *image(32))


@register("super_resolution")
def super_resolution():
    layers = nn.Conv2d(3, 64, 5, padding=2), nn.SiLU(), nn.Conv2d(64, 32, 3, padding=1), nn.Mish(), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
    return Sample(Sequential(*layers), *image(24))


@register("norms_and_activations")
def norms_and_activations():
    layers = (
        nn.ReflectionPad2d(1), nn.Conv2d(3, 32, 3), nn.GroupNorm(4, 32), nn.Hardswish(), nn.ReplicationPad2d(1),
        nn.Conv2d(32, 64, 3, groups=4), nn.InstanceNorm2d(64, affine=True), nn.Softplus(), nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2), nn.CELU(), nn.LPPool2d(2, 2), nn.Conv2d(64, 32, 1), nn.Hardsigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10), nn.LogSoftmax(1),
    )
    return Sample(Sequential(*layers), *image(33))


@register("torch_transformer")
def torch_transformer():
    layer = nn.TransformerEncoderLayer(96, 4, 256, batch_first=True, activation="gelu", norm_first=True)
    inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Sample(Sequential(inner, nn.Linear(96, 12)), {"pixels": noise(2, 10, 96)}, {"pixels": {0: "batch"}})


class Experts(nn.Module):
    """A mixture of experts: the two best of four by a router; all are computed, the gates of the others are zero."""

    def __init__(self, width=64, hidden=96, experts=4):
        super().__init__()
        self.embedding = nn.Embedding(200, width)
        self.router = nn.Linear(width, experts)
        self.inner = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.outer = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)
        self.head = nn.Linear(width, 16)

    def forward(self, input_ids):
        value = self.embedding(input_ids)
        best, chosen = torch.topk(self.router(value), 2, dim=-1)
        scores = self.router(value)
        gates = torch.zeros_like(scores).scatter(-1, chosen, torch.softmax(best, dim=-1))
        hidden = torch.relu(torch.einsum("bsw,ewh->besh", value, self.inner))
        mixed = torch.einsum("besh,ehw,bse->bsw", hidden, self.outer, gates)
        logits = self.head(value + mixed)
        return logits, logits.argmax(dim=-1)


@register("experts")
def experts():
    feed = {"input_ids": torch.randint(0, 200, (2, 9))}
    return Sample(Experts(), feed, {"input_ids": {0: "batch", 1: "sequence"}})


class DenseBranches(nn.Module):
    """Branches that are split, concatenated, sliced and multiplied."""

    def __init__(self, width=48):
        super().__init__()
        self.stem, self.wide = conv_block(3, width), conv_block(width, 2 * width)
        self.left, self.right = conv_block(width, width), conv_block(width, width, groups=4)
        self.merge, self.head = nn.Conv2d(3 * width, width, 1), nn.Linear(2 * width // 3, 10)

    def forward(self, pixels):
        stem = self.stem(pixels)
        left, right = self.wide(stem).chunk(2, dim=1)
        value = torch.cat([self.left(left), stem, self.right(right)], dim=1)
        value = self.merge(value) * torch.sigmoid(left) + right
        pooled = value.mean(dim=(2, 3))
        return self.head(torch.cat([pooled[:, ::3], pooled[:, 1::3]], dim=1))


register("branches")(lambda: Sample(DenseBranches(), *image(32)))
