"""BERT, GPT-2, Llama and the encoder-decoder against `transformers`, with its weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.layers import sinusoidal
from jaxnet.models import BERT, GPT2, BERTClassifier, BERTMaskedLM, BERTTagger, Llama, Transformer

from . import parity
from .parity import close

BATCH, TIME, VOCAB, WIDTH, LAYERS, HEADS, HIDDEN = 2, 7, 23, 16, 2, 4, 24
TOKENS = np.random.default_rng(0).integers(1, VOCAB, (BATCH, TIME))
MASK = np.arange(TIME)[None] < np.array([[TIME], [4]])
LEFT = MASK[:, ::-1].copy()


def embedding_gradients(ours, variables, theirs, embedding, ids, **options):
    """The gradients of both networks' outputs by the table of embeddings."""
    import torch

    def scalar(variables):
        y = ours.apply(variables, **options)
        return (y * jnp.sin(y)).sum()

    y = theirs(**ids).logits
    (y * torch.sin(y)).sum().backward()
    got = jax.jit(jax.grad(scalar))(variables)["params"]
    return got, embedding.grad.numpy()


@pytest.fixture(scope="module")
def bert():
    library = parity.transformers()
    config = library.BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=10,
    )
    sizes = {"vocab_size": VOCAB, "length": 10, "features": WIDTH, "num_layers": LAYERS}
    return library, config, BERT(**sizes, num_heads=HEADS, hidden=HIDDEN)


@pytest.mark.slow
def test_bert_equals_transformers(bert):
    import torch

    library, config, ours = bert
    theirs = parity.randomized(library.BertModel(config))
    segments = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 0]])
    want = theirs(
        torch.tensor(TOKENS),
        attention_mask=torch.tensor(MASK),
        token_type_ids=torch.tensor(segments),
    )
    variables = parity.variables(parity.bert(parity.arrays(theirs), LAYERS))
    given = jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK), jnp.asarray(segments, jnp.int32)
    states = jax.jit(ours.apply)(variables, *given)
    real = np.asarray(MASK)
    close(states[real], want.last_hidden_state.detach().numpy()[real])
    pooled = jax.jit(lambda *a: ours.apply(*a, method="pooled"))(variables, *given)
    close(pooled, want.pooler_output.detach().numpy())


@pytest.mark.slow
def test_bert_masked_lm_equals_transformers_with_its_gradient(bert):
    import torch

    library, config, encoder = bert
    theirs = parity.randomized(library.BertForMaskedLM(config))
    variables = parity.variables(parity.bert_masked_lm(parity.arrays(theirs), LAYERS))
    ours, tokens = BERTMaskedLM(encoder), np.where(MASK, TOKENS, 0)
    ids = {"input_ids": torch.tensor(TOKENS[:1])}
    given = jnp.asarray(tokens, jnp.int32)
    got = jax.jit(ours.apply)(variables, given)  # padding is seen without a mask
    want = theirs(torch.tensor(tokens), attention_mask=torch.tensor(MASK)).logits
    close(got[MASK], want.detach().numpy()[MASK])
    table = theirs.bert.embeddings.word_embeddings.weight
    got, want = embedding_gradients(ours, variables, theirs, table, ids, tokens=given[:1])
    close(got["encoder"]["embed"]["embedding"], want)


@pytest.mark.slow
def test_bert_classifier_equals_transformers(bert):
    import torch

    library, config, encoder = bert
    config.num_labels = 3
    theirs = parity.randomized(library.BertForSequenceClassification(config))
    weights = parity.arrays(theirs)
    params = {
        "encoder": parity.bert(weights, LAYERS, "bert."),
        "head": parity.dense(weights, "classifier"),
    }
    got = jax.jit(BERTClassifier(encoder, 3).apply)(
        parity.variables(params), jnp.asarray(TOKENS, jnp.int32)
    )
    close(got, theirs(torch.tensor(TOKENS)).logits.detach().numpy())


@pytest.mark.slow
def test_bert_tagger_equals_transformers_with_its_gradient(bert):
    import torch

    library, config, encoder = bert
    config.num_labels = 5
    theirs = parity.randomized(library.BertForTokenClassification(config))
    weights = parity.arrays(theirs)
    params = {
        "encoder": parity.bert(weights, LAYERS, "bert."),
        "head": parity.dense(weights, "classifier"),
    }
    variables, ours = parity.variables(params), BERTTagger(encoder, 5)
    tokens = np.where(MASK, TOKENS, 0)
    given = jnp.asarray(tokens, jnp.int32)
    got = jax.jit(ours.apply)(variables, given)
    want = theirs(torch.tensor(tokens), attention_mask=torch.tensor(MASK)).logits
    assert got.shape == (BATCH, TIME, 5)
    close(got[MASK], want.detach().numpy()[MASK])
    ids = {"input_ids": torch.tensor(TOKENS[:1])}
    table = theirs.bert.embeddings.word_embeddings.weight
    got, want = embedding_gradients(ours, variables, theirs, table, ids, tokens=given[:1])
    close(got["encoder"]["embed"]["embedding"], want)


def gpt2(library):
    config = library.GPT2Config(
        vocab_size=VOCAB, n_positions=10, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS
    )
    theirs = parity.randomized(library.GPT2LMHeadModel(config))
    ours = GPT2(VOCAB, 10, WIDTH, LAYERS, HEADS)
    return ours, theirs, parity.gpt2, theirs.transformer.wte.weight


def llama(library):
    config = library.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )
    theirs = parity.randomized(library.LlamaForCausalLM(config))
    ours = Llama(VOCAB, WIDTH, LAYERS, HEADS, HIDDEN, num_kv_heads=2)
    return ours, theirs, parity.llama, theirs.model.embed_tokens.weight


@pytest.mark.slow
@pytest.mark.parametrize("made", [gpt2, llama])
def test_decoders_equal_transformers_with_their_gradients(made):
    library = parity.transformers()
    import torch

    ours, theirs, convert, table = made(library)
    variables = parity.variables(convert(parity.arrays(theirs), LAYERS))
    tokens = jnp.asarray(TOKENS, jnp.int32)
    apply = jax.jit(ours.apply)
    close(apply(variables, tokens), theirs(torch.tensor(TOKENS)).logits.detach().numpy())
    positions = np.maximum(np.cumsum(LEFT, axis=1) - 1, 0)
    want = (
        theirs(
            torch.tensor(TOKENS),
            attention_mask=torch.tensor(LEFT),
            position_ids=torch.tensor(positions),
        )
        .logits.detach()
        .numpy()
    )
    close(apply(variables, tokens, jnp.asarray(LEFT))[LEFT], want[LEFT])
    ids = {"input_ids": torch.tensor(TOKENS)}
    got, want = embedding_gradients(ours, variables, theirs, table, ids, tokens=tokens)
    close(got["embed"]["embedding"], want)


@pytest.mark.slow
def test_the_encoder_decoder_equals_transformers_with_its_gradient():
    library = parity.transformers()
    import torch

    config = library.MarianConfig(
        vocab_size=VOCAB,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=10,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=3,
    )
    theirs = parity.randomized(library.MarianMTModel(config))
    with torch.no_grad():  # Marian has all sines before all cosines
        waves = torch.tensor(np.asarray(sinusoidal(jnp.arange(10), WIDTH)))
        for half in (theirs.model.encoder, theirs.model.decoder):
            half.embed_positions.weight.copy_(waves)
    ours = Transformer(VOCAB, WIDTH, LAYERS, HEADS, HIDDEN)
    variables = parity.variables(parity.marian(parity.arrays(theirs), LAYERS))
    source, target = np.where(MASK, TOKENS, 0), TOKENS[:, :5]
    ids = {
        "input_ids": torch.tensor(source),
        "attention_mask": torch.tensor(MASK),
        "decoder_input_ids": torch.tensor(target),
    }
    given = {
        "source": jnp.asarray(source, jnp.int32),
        "target": jnp.asarray(target, jnp.int32),
    }
    close(jax.jit(ours.apply)(variables, **given), theirs(**ids).logits.detach().numpy())
    table = theirs.model.shared.weight
    got, want = embedding_gradients(ours, variables, theirs, table, ids, **given)
    close(got["embed"]["embedding"], want)
