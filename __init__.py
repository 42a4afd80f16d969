"""InstructIR for ComfyUI: restore pictures by a sentence.

ComfyUI imports this file; everything else is imported when it asks for the nodes, so that other
tools (pytest among them) may come across the file without a host.
"""

WEB_DIRECTORY = "./web"  # the help pages, in docs/


async def comfy_entrypoint() -> object:
    """The pack's nodes, as ComfyUI's V3 loader asks for them."""
    import logging

    try:
        from .nodes import InstructIRExtension
    except Exception:
        # The host shows one line of this; the log gets the whole.
        logging.getLogger(__name__).exception("InstructIR could not be loaded")
        raise
    return InstructIRExtension()
