"""A tiny network with the signatures of an export. Its three classes depend on the mean color of the image."""

import base64
import http.server
import json
import os
import threading

import numpy as np
import tensorflow as tf

from alexnet_tf.serving import protocol

CLASSES = ["red", "größtes Grün", "blue"]
TOP = 2
# The network reports an error for this image.
BAD = b"bad"
ERROR = "Expected a JPEG or PNG image. Received: something else"


class _MeanColor(tf.Module):
    def __init__(self):
        self.names = tf.constant(CLASSES)
        # A variable to restore.
        self.scale = tf.Variable(1.0)

    def colors(self, image_bytes):
        """Returns the mean colors of images, float32 ``[batch, 3]`` in [0, 255], and which images are bad."""
        is_bad = tf.equal(image_bytes, BAD)
        return tf.map_fn(self.color, (image_bytes, is_bad), fn_output_signature=tf.float32), is_bad

    def color(self, image):
        contents, is_bad = image
        return tf.cond(is_bad, lambda: tf.zeros([3]), lambda: self.decoded_color(contents))

    def decoded_color(self, contents):
        pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return tf.ensure_shape(tf.reduce_mean(tf.cast(pixels, tf.float32), [0, 1]), [3])

    def outputs(self, colors):
        probabilities = tf.math.divide_no_nan(self.scale * colors, tf.reduce_sum(colors, 1, keepdims=True))
        scores, places = tf.math.top_k(probabilities, TOP)
        return {"probabilities": probabilities, "classes": tf.gather(self.names, places), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(self, image_bytes):
        colors, is_bad = self.colors(image_bytes)
        outputs = self.outputs(colors)
        outputs["classes"] = tf.where(is_bad[:, None], "", outputs["classes"])
        return {**outputs, "errors": tf.where(is_bad, ERROR, "")}

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, "images")])
    def images(self, images):
        return self.outputs(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "images_float")])
    def images_float(self, images_float):
        return self.outputs(tf.reduce_mean(images_float, [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def features(self, image_bytes):
        colors, is_bad = self.colors(image_bytes)
        return {"features": colors, "errors": tf.where(is_bad, ERROR, "")}


def save(export_dir, version=1):
    """Saves the network as a version of an export."""
    module = _MeanColor()
    names = ["serving_default", "images", "images_float", "features"]
    signatures = {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, os.path.join(export_dir, str(version)), signatures=signatures)


def write_warmup(export_dir, records, version=1):
    """Writes records of warm-up requests into a version of an export."""
    path = os.path.join(export_dir, str(version), protocol.WARMUP_REQUESTS)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


def warmup_record():
    """Returns the record of a valid request."""
    return protocol.warmup_record(protocol.predict_request("alexnet", "features", {"image_bytes": [png(1, 2, 3)]}))


def png(red, green, blue):
    """Returns a PNG file of a single color, bytes."""
    return tf.io.encode_png(np.full([4, 4, 3], [red, green, blue], np.uint8)).numpy()


def probabilities(*color):
    """Returns the network's probabilities for an image of this color, float32 ``[3]``."""
    return np.float32(color) / np.float32(sum(color))


def write_images(directory, images):
    """Writes files with these contents; returns their paths, strings."""
    paths = []
    for place, image in enumerate(images):
        paths.append(os.path.join(directory, f"{place}.png"))
        with open(paths[-1], "wb") as file:
            file.write(image)
    return paths


class Rest(http.server.BaseHTTPRequestHandler):
    """TensorFlow Serving's REST interface, as documented, in front of a SavedModel in this process."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        if self.path != "/v1/models/alexnet:predict":
            return self.respond(404, {"error": "Servable not found for request: Latest(other)"})
        try:
            images = [base64.b64decode(image["b64"], validate=True) for image in body["inputs"]["image_bytes"]]
            outputs = self.server.model.predict(images, body.get("signature_name", "serving_default"))
        except (ValueError, OSError) as error:
            return self.respond(400, {"error": f"{error}\n\t [[{{{{node x}}}}]]"})
        self.respond(200, {"outputs": {name: self.encoded(name, array.tolist()) for name, array in outputs.items()}})

    def encoded(self, name, value):
        if isinstance(value, list):
            return [self.encoded(name, each) for each in value]
        if isinstance(value, bytes):
            return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode()
        return value

    def respond(self, status, value):
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def start(handler, **attributes):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(server).update(attributes)
    threading.Thread(target=server.serve_forever, args=[0.01]).start()
    return server


def stop(server):
    server.shutdown()
    server.server_close()
