"""Texts, token by token: one loop for every model that predicts the next token.

A model is known by two functions: `step(variables, tokens, mask, cache) -> (logits, cache)`, and
`init_cache(batch_size, length)`, the cache before the first token.
"""

from jaxnet.generation.beam import beam_search as beam_search
from jaxnet.generation.decoding import Generated as Generated
from jaxnet.generation.decoding import ModuleStep as ModuleStep
from jaxnet.generation.decoding import Step as Step
from jaxnet.generation.decoding import generate as generate
from jaxnet.generation.samplers import Filter as Filter
from jaxnet.generation.samplers import chosen as chosen
from jaxnet.generation.samplers import greedy as greedy
from jaxnet.generation.samplers import temperature as temperature
from jaxnet.generation.samplers import top_k as top_k
from jaxnet.generation.samplers import top_p as top_p
from jaxnet.generation.texts import Samples as Samples
from jaxnet.generation.texts import checked_prompts as checked_prompts
from jaxnet.generation.texts import generate_texts as generate_texts
from jaxnet.generation.texts import with_room as with_room
from jaxnet.generation.translation import Translations as Translations
from jaxnet.generation.translation import translate as translate
from jaxnet.generation.translation import translation_attention as translation_attention
