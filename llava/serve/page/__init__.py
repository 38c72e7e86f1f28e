"""The web page: `service` is what it does, `layout` what is where in Gradio."""
