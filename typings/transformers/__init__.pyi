"""What the code takes from transformers, by where it stands.

The package's own __init__ names every model there is: reading them all was half of pyright's time.
"""

__version__: str
from transformers.modeling_utils import AttentionInterface as AttentionInterface
from transformers.modeling_utils import PreTrainedModel as PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING as CONFIG_MAPPING
from transformers.models.auto.configuration_auto import AutoConfig as AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor as AutoImageProcessor
from transformers.models.auto.tokenization_auto import AutoTokenizer as AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as CLIPImageProcessorPil
from transformers.models.florence2.modeling_florence2 import (
    Florence2ForConditionalGeneration as Florence2ForConditionalGeneration,
)
from transformers.models.florence2.processing_florence2 import Florence2Processor as Florence2Processor
from transformers.models.gemma.configuration_gemma import GemmaConfig as GemmaConfig
from transformers.models.gemma3.configuration_gemma3 import Gemma3Config as Gemma3Config
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil as Gemma3ImageProcessorPil
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3ForConditionalGeneration as Gemma3ForConditionalGeneration,
)
from transformers.models.gemma4.configuration_gemma4 import Gemma4Config as Gemma4Config
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil as Gemma4ImageProcessorPil
from transformers.models.gemma4.modeling_gemma4 import (
    Gemma4ForConditionalGeneration as Gemma4ForConditionalGeneration,
)
from transformers.models.glm4v.configuration_glm4v import Glm4vConfig as Glm4vConfig
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil as Glm4vImageProcessorPil
from transformers.models.glm4v.modeling_glm4v import (
    Glm4vForConditionalGeneration as Glm4vForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil as GotOcr2ImageProcessorPil,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3Config as Idefics3Config
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil as Idefics3ImageProcessorPil,
)
from transformers.models.idefics3.modeling_idefics3 import (
    Idefics3ForConditionalGeneration as Idefics3ForConditionalGeneration,
)
from transformers.models.internvl.modeling_internvl import (
    InternVLForConditionalGeneration as InternVLForConditionalGeneration,
)
from transformers.models.llama.configuration_llama import LlamaConfig as LlamaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration as LlavaForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil as LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import (
    LlavaNextForConditionalGeneration as LlavaNextForConditionalGeneration,
)
from transformers.models.mistral3.modeling_mistral3 import (
    Mistral3ForConditionalGeneration as Mistral3ForConditionalGeneration,
)
from transformers.models.paligemma.configuration_paligemma import PaliGemmaConfig as PaliGemmaConfig
from transformers.models.paligemma.modeling_paligemma import (
    PaliGemmaForConditionalGeneration as PaliGemmaForConditionalGeneration,
)
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil as PixtralImageProcessorPil,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration as Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig as Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil as Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLForConditionalGeneration as Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config as Qwen3_5Config
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5ForConditionalGeneration as Qwen3_5ForConditionalGeneration,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig as Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration as Qwen3VLForConditionalGeneration,
)
from transformers.models.sam2.modeling_sam2 import Sam2Model as Sam2Model
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig as SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import (
    SmolVLMImageProcessorPil as SmolVLMImageProcessorPil,
)
from transformers.models.smolvlm.modeling_smolvlm import (
    SmolVLMForConditionalGeneration as SmolVLMForConditionalGeneration,
)
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast as PreTrainedTokenizerFast
