"""OpenBA for transformers 5: importing this registers it with the Auto classes."""

from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from regrow.models.openba.configuration_openba import OpenBAConfig
from regrow.models.openba.modeling_openba import OpenBAForConditionalGeneration
from regrow.models.openba.tokenization_openba import OpenBATokenizer

AutoConfig.register("openba", OpenBAConfig)
AutoModelForSeq2SeqLM.register(OpenBAConfig, OpenBAForConditionalGeneration)
AutoTokenizer.register(OpenBAConfig, tokenizer_class=OpenBATokenizer)

__all__ = ["OpenBAConfig", "OpenBAForConditionalGeneration", "OpenBATokenizer"]
