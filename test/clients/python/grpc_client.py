"""grpcio against the gRPC front: python grpc_client.py GENERATED_FOLDER ADDRESS KEY TEXT

Prints one JSON object: the answer, the kinds of events, the code of a refusal.
"""

import json
import sys
import uuid

generated, address, key, text = sys.argv[1:]
sys.path.insert(0, generated)

import grpc  # noqa: E402
from leanedge.v1 import session_pb2, session_pb2_grpc  # noqa: E402

metadata = [("authorization", f"Bearer {key}")]
with grpc.insecure_channel(address) as channel:
    sessions = session_pb2_grpc.SessionServiceStub(channel)
    request = session_pb2.GenerateRequest(
        session_id=f"python-{uuid.uuid4()}",
        turn=1,
        messages=[session_pb2.Message(role=session_pb2.ROLE_USER, text=text)],
    )
    request.sampling.temperature = 0
    request.sampling.max_tokens = 40
    answer = ""
    kinds = []
    for event in sessions.Generate(request, metadata=metadata, timeout=60):
        kind = event.WhichOneof("event")
        kinds.append(kind)
        if kind == "delta":
            answer += event.delta.text
    try:
        sessions.GetSession(session_pb2.GetSessionRequest(session_id="nobody"), metadata=metadata)
        refusal = "none"
    except grpc.RpcError as error:
        refusal = error.code().name

print(json.dumps({"answer": answer, "kinds": kinds, "refusal": refusal}))
