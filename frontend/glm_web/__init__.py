"""The web page: ``python -m glm_web``.

It is no Gradio app: Gradio would take Pillow 13 from the models, load fonts and scripts from other
hosts, and ask the API with one key for all people. Here each browser is a client of its own, and
its stop button, which closes the connection, cancels the request down to the engine.
"""
