"""openai for Python: python openai_client.py BASE_URL KEY MODEL TEXT

Prints one JSON object: the whole answer, the streamed one, usage, the status of a refusal.
"""

import json
import sys

from openai import APIStatusError, OpenAI

base_url, key, model, text = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)
messages = [{"role": "user", "content": text}]

whole = client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=40
)
streamed = ""
for chunk in client.chat.completions.create(
    model=model, messages=messages, temperature=0, max_tokens=40, stream=True
):
    streamed += chunk.choices[0].delta.content or "" if chunk.choices else ""
try:
    client.models.retrieve("nobody")
    refusal = 0
except APIStatusError as error:
    refusal = error.status_code

print(
    json.dumps(
        {
            "answer": whole.choices[0].message.content,
            "streamed": streamed,
            "promptTokens": whole.usage.prompt_tokens,
            "refusal": refusal,
        }
    )
)
