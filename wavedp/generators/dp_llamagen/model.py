"""`dp_llamagen`: the Llama-shaped decoder, pretrained publicly and fitted by DP-SGD (wavedp.generators.token_model)."""

from __future__ import annotations

from wavedp.generators.dp_llamagen import DPLlamaGenConfig
from wavedp.generators.dp_llamagen.decoder import LlamaDecoder
from wavedp.generators.token_model import TokenModel
from wavedp.tokenizers import Tokenizer


class LlamaGenModel(TokenModel):
    """See wavedp.generators for the protocol; all of it is TokenModel's but the network."""

    config: DPLlamaGenConfig

    def decoder(self, tokenizer: Tokenizer, n_classes: int) -> LlamaDecoder:
        """In raster order."""
        config = self.config
        condition = self.condition(n_classes, config.width)
        return LlamaDecoder(tokenizer, condition, config.width, config.depth, config.heads)
