"""Asks a prfaas gateway with the `openai` client, unchanged, and says where the prompt was prefilled.

make up                                          # in another terminal; it prints the gateway's address
python examples/ask.py --base-url http://127.0.0.1:8000/v1 "The capital of France is"
"""

import argparse
import sys

import openai


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a prfaas gateway.")
    parser.add_argument("prompt")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="default: the first one that the gateway serves")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--api-key", default="none", help="only needed where the gateway has a `tenants-file`")
    arguments = parser.parse_args()
    # The client would retry by itself; a refusal's Retry-After is to be seen here.
    client = openai.OpenAI(base_url=arguments.base_url, api_key=arguments.api_key, max_retries=0)
    try:
        model = arguments.model or client.models.list().data[0].id
        answer = client.completions.with_raw_response.create(
            model=model, prompt=arguments.prompt, max_tokens=arguments.max_tokens, temperature=0, stream=True
        )
        # The status and these headers come when the KV cache is complete and verified, before the first token.
        headers = answer.headers
        print(f"{headers['x-prfaas-outcome']} at {headers['x-prfaas-prefill-site']}: {headers['x-prfaas-reason']}")
        for chunk in answer.parse():
            print(chunk.choices[0].text if chunk.choices else "", end="", flush=True)
        print()
    except openai.APIError as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
