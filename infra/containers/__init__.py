"""Sites in containers on one machine: images, a network namespace of their own, and what a test needs to break them.

`python -m infra.containers` is the way in. All that it makes lies in one folder and one namespace, and nothing of the machine's
own container storage, networks or addresses is touched.
"""
