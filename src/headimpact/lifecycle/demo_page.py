"""The page of ``headimpact demo``, which Streamlit runs: model, source and revision are its arguments."""

import base64
import sys
from pathlib import Path

import streamlit as st

from headimpact.errors import InputError
from headimpact.lifecycle import demo, layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.params import load as load_params
from headimpact.lifecycle.serving import Limits, Refusal, read_image
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm

_EXAMPLES = 24


@st.cache_resource(show_spinner="Loading the base")
def _base(source: str, revision: str | None, device: str, dtype: str) -> Vlm:
    return loading.load(source, revision, device, dtype)


def _picture() -> bytes | None:
    """A picture of the person's, else one of the dataset's."""
    uploaded = st.file_uploader("A picture of yours (PNG, JPEG, WebP)", ["png", "jpg", "jpeg", "webp"])
    if uploaded is not None:
        return uploaded.getvalue()
    images = sorted((layout.DATASET / "images").glob("[!.]*"))[:_EXAMPLES]
    chosen = st.selectbox("or one of the dataset", images, format_func=lambda path: path.name)
    return Path(chosen).read_bytes() if chosen else None


def _show(config: Config, model: str, source: str, revision: str | None) -> None:
    adapters = demo.trained(model)
    st.title(f"{model}: the original and its adapters")
    if not adapters:
        st.info(f"There is no adapter yet: headimpact finetune --model {model}")
    data = _picture()
    prompt = st.text_input("Prompt", "What is this photo?")
    setups = st.multiselect("Adapters", list(adapters), default=list(adapters)[:3])
    if data is None or not prompt.strip():
        return
    limits = Limits(**config.serve.model_dump())
    image = read_image(base64.b64encode(data).decode(), limits)
    st.image(image, width=320)
    if not st.button("Answer", type="primary"):
        return
    vlm = _base(source, revision, config.compute.device, config.compute.dtype)
    chosen = {setup: adapters[setup] for setup in setups}
    told = demo.answers(vlm, chosen, image, prompt, limits.max_new_tokens)
    for column, (setup, answer) in zip(st.columns(1 + len(chosen)), told, strict=True):
        column.subheader(setup)
        column.text(answer)


def main() -> None:
    """Show the page; what a person can mend stands on it in a sentence."""
    model, source, *revision = sys.argv[1:]
    st.set_page_config(page_title=f"Head Impact: {model}", layout="wide")
    try:
        _show(load_params(layout.PARAMS), model, source, revision[0] if revision else None)
    except (InputError, Refusal) as error:
        st.error(str(error))


main()
