"""Tiny checkpoints of language models with their tokenizers, as `save_pretrained` writes them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

TEXTS = ["A red cat sits on the mat.", "The blue dog runs.", "Why? The picture shows a cat: it has fur."]
WORDS = ["cat", "dog", "runs"]


def save_gpt2(folder: Path) -> Path:
    """GPT-2 with byte pairs, tied embeddings and one special token, `<|endoftext|>`."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=192,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """Llama with six words, three of them special."""
    torch.manual_seed(0)
    _word_tokenizer(WORDS).save_pretrained(folder)
    LlamaForCausalLM(_llama_config(6)).save_pretrained(folder)
    return folder


def save_mamba(folder: Path) -> Path:
    """Mamba, a recurrent model without attention, with the words of `save_llama`."""
    torch.manual_seed(0)
    _word_tokenizer(WORDS).save_pretrained(folder)
    config = MambaConfig(
        vocab_size=6, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3
    )
    MambaForCausalLM(config).save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """LLaVA whose tower sees 16 pixels as a grid of 4 x 4, with its image processor.

    Its last token is no word: the place holder of the picture's tokens.
    """
    torch.manual_seed(0)
    words = sorted({*WORDS, "USER", "ASSISTANT", "why", "picture", ":", "?", "."})
    _word_tokenizer(words).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.4],
    ).save_pretrained(folder)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        initializer_factor=4.0,
    )
    config = LlavaConfig(vision_config=vision, text_config=_llama_config(4 + len(words)))
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _llama_config(vocabulary_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=160,
        initializer_range=0.2,
    )


def _word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
