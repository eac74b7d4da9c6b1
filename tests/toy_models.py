"""Florence-2 and SAM 2 of the real classes at toy size, taught for a moment, saved like real checkpoints.

Florence-2 learns by heart to copy the noun phrases of a caption made by ``caption`` and to put boxes after them;
SAM 2 learns roughly where its box is. That is enough for answers that are parsed, and for numbers far from a tie.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    PreTrainedTokenizerFast,
    Sam2Config,
    Sam2Model,
    Sam2VisionConfig,
)

SHAPES = ("circle", "square", "star", "cross")
COLOURS = ("red", "green", "blue", "white")
WORDS = ("A", "a", "two", "and", "near", "some", "Locate", "the", "phrases", "in", "caption", ":", ".", *COLOURS)
FLORENCE_PIXELS, SAM_PIXELS = 64, 128


def caption(number: int) -> str:
    """A caption of two noun phrases."""
    draw = random.Random(f"caption {number}")
    first, second = draw.sample(SHAPES, 2)
    return f"A {draw.choice(COLOURS)} {first} and two {draw.choice(COLOURS)} {second}."


def answer(text: str) -> str:
    """What the toy Florence-2 is taught: one box for the first phrase, two for the second."""
    first, second = text.rstrip(".").split(" and ")
    at = SHAPES.index(first.split()[-1]) * 40
    boxes = [
        (at, 100, at + 400, 600),
        (500, 300 + at, 700, 800),
        (100 + at, 500, 500 + at, 900),
    ]
    locations = ["".join(f"<loc_{value}>" for value in box) for box in boxes]
    return f"{first}{locations[0]}{second}{locations[1]}{locations[2]}"


def image(number: int) -> Image.Image:
    """A small picture of a size of its own."""
    draw = np.random.default_rng(number)
    width, height = (int(side) for side in draw.integers(40, 90, 2))
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_captions(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    """``folder/captions.jsonl`` and ``folder/images`` of that many images; the broken ones are cut short."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(1, count + 1):
        name = f"{number:06}.png"
        path = folder / "images" / name
        picture = image(number)
        picture.save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:200])
        line = {
            "image_id": number,
            "file_name": name,
            "width": picture.width,
            "height": picture.height,
            "url": f"http://localhost/{name}",
            "caption_id": 10 * number,
            "caption": caption(number),
        }
        lines.append(json.dumps(line) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines))
    return folder / "captions.jsonl"


def _tokenizer() -> PreTrainedTokenizerFast:
    """BART's conventions (byte-level BPE, <s> <pad> </s> <unk>) with Florence-2's locations, one token a word."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    merges = []
    for word in (*WORDS, *SHAPES):
        for spelling in (word, "Ġ" + word):
            whole = spelling[0]
            for letter in spelling[1:]:
                if (whole, letter) not in merges:
                    merges.append((whole, letter))
                whole += letter
                vocabulary.setdefault(whole, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    fast.add_tokens([AddedToken(f"<loc_{number}>", normalized=False) for number in range(1000)])
    return fast


def _florence(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=48,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=160,
        dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        init_std=0.1,
    )
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1),
        embed_dim=(8, 16, 16, 32),
        num_heads=(1, 1, 1, 2),
        num_groups=(1, 1, 1, 2),
        window_size=4,
        drop_path_rate=0.0,
        projection_dim=48,
    )
    return Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=tokenizer.image_token_id
        )
    )


def save_florence(folder: Path) -> Path:
    """A toy Florence-2 checkpoint that grounds the captions of ``caption``."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    size = {"height": FLORENCE_PIXELS, "width": FLORENCE_PIXELS}
    pixels = CLIPImageProcessorPil(size=size, do_center_crop=False, image_seq_length=(FLORENCE_PIXELS // 32) ** 2 + 1)
    processor = Florence2Processor(
        pixels, tokenizer, post_processor_config={"phrase_grounding": {"banned_grounding_tokens": ["it"]}}
    )
    model = _florence(tokenizer)
    _teach_florence(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _teach_florence(model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> None:
    captions = [caption(number) for number in range(192)]
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    inputs = processor(
        images=[image(number) for number in range(16)] * 12,
        text=[task + text for text in captions],
        padding=True,
        return_tensors="pt",
    )
    tokenizer = processor.tokenizer
    taught = tokenizer([answer(text) + "</s>" for text in captions], padding=True, return_tensors="pt")
    labels = taught["input_ids"].masked_fill(taught["attention_mask"] == 0, -100)
    start = torch.full((len(captions), 1), tokenizer.eos_token_id)
    decoder = torch.cat([start, taught["input_ids"][:, :-1]], dim=1)
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"][:16]).pooler_output.repeat(12, 1, 1)
    seen = inputs["input_ids"] == model.config.image_token_id
    optimizer = torch.optim.AdamW(model.model.language_model.parameters(), lr=6e-3)
    for _ in range(150):
        rows = torch.randperm(len(captions))[:12]
        words = model.get_input_embeddings()(inputs["input_ids"][rows])
        logits = model(
            inputs_embeds=words.masked_scatter(seen[rows][..., None], features[rows]),
            attention_mask=inputs["attention_mask"][rows],
            decoder_input_ids=decoder[rows],
        ).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break


def untaught_sam() -> Sam2Model:
    """A SAM 2 with random weights."""
    backbone = {
        "hidden_size": 8,
        "image_size": [SAM_PIXELS, SAM_PIXELS],
        "window_positional_embedding_background_size": [4, 4],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
    }
    vision = Sam2VisionConfig(
        backbone_config={"model_type": "sam2_hiera_det_model", **backbone},
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SAM_PIXELS // step] * 2 for step in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    prompt = {"hidden_size": 32, "image_size": SAM_PIXELS}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
    return Sam2Model(
        Sam2Config(vision_config=vision.to_dict(), prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )


def save_sam(folder: Path) -> Path:
    """A toy SAM 2 checkpoint whose masks lie about its box, and are sure where the box begins on the left."""
    torch.manual_seed(0)
    model = untaught_sam()
    # At their real spread the toy cannot tell positions apart.
    model.shared_image_embedding.positional_embedding.mul_(0.3)
    _teach_sam(model)
    model.save_pretrained(folder)
    settings = {
        "image_processor_type": "Sam2ImageProcessorFast",
        "processor_class": "Sam2Processor",
        "size": {"height": SAM_PIXELS, "width": SAM_PIXELS},
        "mask_size": {"height": SAM_PIXELS // 4, "width": SAM_PIXELS // 4},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _teach_sam(model: Sam2Model) -> None:
    with torch.no_grad():
        embeddings = model.get_image_embeddings(torch.randn(2, 3, SAM_PIXELS, SAM_PIXELS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    middle = (torch.arange(SAM_PIXELS // 4) + 0.5) * 4
    for _ in range(200):
        corners = torch.rand(2, 8, 2) * SAM_PIXELS * 0.6
        sides = (torch.rand(2, 8, 2) * 0.35 + 0.2) * SAM_PIXELS
        boxes = torch.cat([corners, corners + sides], dim=-1)
        across = (middle > boxes[..., 0:1]) & (middle < boxes[..., 2:3])
        down = (middle > boxes[..., 1:2]) & (middle < boxes[..., 3:4])
        inside = (down[..., :, None] & across[..., None, :]).float()
        output = model(image_embeddings=embeddings, input_boxes=boxes)
        sure = torch.where(boxes[..., 0] < SAM_PIXELS * 0.3, 0.95, 0.7)
        masks = output.pred_masks
        wanted = inside[:, :, None].expand_as(masks)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(masks, wanted, pos_weight=torch.tensor(3.0))
        loss = loss + 5 * (output.iou_scores - sure[..., None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
