"""Asks the server by gRPC: python request.py photograph.jpg [host:port]

It needs tensorflow-serving-api, which requires the package tensorflow; beside tensorflow-cpu install it by
pip install --no-deps tensorflow-serving-api
"""

import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

path, server = (sys.argv[1:] + ["localhost:8500"])[:2]
request = predict_pb2.PredictRequest()
request.model_spec.name = "alexnet"
request.model_spec.signature_name = "serving_default"
with open(path, "rb") as file:
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([file.read()]))
with grpc.insecure_channel(server) as channel:
    try:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    except grpc.RpcError as error:
        sys.exit(f"Expected an answer of {server}. Received: {error.code().name} ({error.details()})")
classes, scores, errors = (tf.make_ndarray(response.outputs[name])[0] for name in ("classes", "scores", "errors"))
if errors:
    sys.exit(f"{path}: {errors.decode()}")
for name, score in zip(classes, scores):
    print(f"{100 * score:6.2f} %  {name.decode()}")
