"""A gRPC server, and calls to it, by grpcio: messages are bytes, there is no protobuf.

grpc_peer.py serve CERT.pem [plain]         prints its port; then, for each event, a line
grpc_peer.py call TARGET CA.pem METADATA…   reads lines "NAME SIZE SECONDS" and answers each with a line of JSON; METADATA is name=value
"""
import json
import sys
import threading
import time
from concurrent import futures

import grpc

MAX = [("grpc.max_receive_message_length", 20 << 20), ("grpc.max_send_message_length", 20 << 20)]


# Methods of public services that SDKs call: their answers, and the status of one. Messages are written by hand: (1) name, (2) payload
# (1) data of a secret's version; (1) the id of a run.
SERVICES = {
    "/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion": b"\x0a\x01v\x12\x08\x0a\x06opened",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": b"",
    "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo": b"",
    "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution": b"\x0a\x03run",
    "/temporal.api.workflowservice.v1.WorkflowService/SignalWorkflowExecution": b"",
}
REFUSED = {
    "/google.cloud.secretmanager.v1.SecretManagerService/GetSecret": ("NOT_FOUND", "no such secret"),
    "/temporal.api.workflowservice.v1.WorkflowService/TerminateWorkflowExecution": ("NOT_FOUND", "workflow not found"),
}


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")          # one write: handlers run on many threads
    sys.stdout.flush()


class Handlers(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method in SERVICES or call.method in REFUSED:
            return grpc.unary_unary_rpc_method_handler(lambda message, context: self.serve(call.method, message, context))
        name = call.method.rsplit("/", 1)[1]
        many = lambda f, a, b: getattr(grpc, f"{'stream' if a else 'unary'}_{'stream' if b else 'unary'}_rpc_method_handler")(f)
        return {"Unary": many(self.unary, 0, 0), "Down": many(self.down, 0, 1), "Up": many(self.up, 1, 0), "Both": many(self.both, 1, 1),
                "Fail": many(self.fail, 0, 0), "Late": many(self.late, 0, 1), "Sleep": many(self.sleep, 0, 0)}.get(name)

    def serve(self, method, message, context):
        say(event="served", method=method, authorization=dict(context.invocation_metadata()).get("authorization"), n=len(message))
        if method in REFUSED:
            context.abort(grpc.StatusCode[REFUSED[method][0]], REFUSED[method][1])
        return SERVICES[method]

    def unary(self, message, context):
        metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        context.send_initial_metadata((("x-head", "h"),))
        context.set_trailing_metadata((("x-trailer", "t"), ("x-echo", metadata.get("authorization", "none"))))
        say(event="unary", authorization=metadata.get("authorization"), agent=metadata.get("user-agent"), n=len(message))
        return message[::-1]

    def down(self, message, context):
        for i in range(int(message)):
            yield b"%d" % i * (i * 1000 + 1)

    def up(self, messages, context):
        return b"%d" % sum(len(m) for m in messages)

    def both(self, messages, context):
        for m in messages:
            yield m.upper()

    def fail(self, message, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing: 100% äöü")

    def late(self, message, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "half of it is gone")

    def sleep(self, message, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        say(event="sleep", left=context.time_remaining())
        ended.wait(30)
        say(event="cancelled" if ended.is_set() else "slept")
        return b""


def serve(cert, plain=False):
    server = grpc.server(futures.ThreadPoolExecutor(40), [Handlers()], options=MAX)
    pem = open(cert, "rb").read()
    port = server.add_insecure_port("127.0.0.1:0") if plain else \
        server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def outcome(f):
    began = time.monotonic()
    try:
        out = f()
    except grpc.RpcError as e:
        out = {"code": e.code().name, "details": e.details(), "trailers": dict(e.trailing_metadata() or ())}
    return {**out, "seconds": round(time.monotonic() - began, 2)}


def calls(target, ca, metadata):
    channel = grpc.insecure_channel(target, options=MAX) if ca == "plain" else \
        grpc.secure_channel(target, grpc.ssl_channel_credentials(open(ca, "rb").read()), options=MAX)
    metadata = [tuple(m.split("=", 1)) for m in metadata]

    def method(shape, name):
        return getattr(channel, shape)(f"/test.Echo/{name}")

    def unary(n, seconds):
        message = bytes(i % 251 for i in range(997)) * (n // 997 + 1)
        out, call = method("unary_unary", "Unary").with_call(message[:n], metadata=metadata, timeout=seconds)
        return {"ok": out == message[:n][::-1], "head": dict(call.initial_metadata()), "trailers": dict(call.trailing_metadata())}

    def down(n, seconds):
        got = list(method("unary_stream", "Down")(b"%d" % n, metadata=metadata, timeout=seconds))
        return {"ok": got == [b"%d" % i * (i * 1000 + 1) for i in range(n)]}

    def up(n, seconds):
        return {"ok": method("stream_unary", "Up")((b"u" * 1000 for _ in range(n)), metadata=metadata, timeout=seconds) == b"%d" % (n * 1000)}

    def both(n, seconds):
        """Each message goes out when the answer to the one before it has come."""
        turn, got = threading.Semaphore(1), []

        def messages():
            for i in range(n):
                turn.acquire()
                yield b"m%d" % i * 100

        for m in method("stream_stream", "Both")(messages(), metadata=metadata, timeout=seconds):
            got.append(m)
            turn.release()
        return {"ok": got == [b"M%d" % i * 100 for i in range(n)]}

    def simple(name):
        def f(n, seconds):
            method("unary_unary", name)(b"x", metadata=metadata, timeout=seconds)
            return {"ok": True}
        return f

    def late(n, seconds):
        got = []
        try:
            for m in method("unary_stream", "Late")(b"", metadata=metadata, timeout=seconds):
                got.append(m.decode())
        except grpc.RpcError as e:
            return {"got": got, "code": e.code().name, "details": e.details()}

    def cancel(n, seconds):
        call = method("unary_unary", "Sleep").future(b"x", metadata=metadata)
        time.sleep(seconds)
        call.cancel()
        return {"ok": call.cancelled()}

    def crowd(n, seconds):
        with futures.ThreadPoolExecutor(n) as pool:
            return {"ok": all(x["ok"] for x in pool.map(lambda i: unary(i * 1000, seconds), range(n)))}

    known = {"unary": unary, "down": down, "up": up, "both": both, "fail": simple("Fail"), "sleep": simple("Sleep"), "late": late,
             "none": simple("None"), "cancel": cancel, "crowd": crowd}
    for line in sys.stdin:
        name, n, seconds = line.split()
        say(**outcome(lambda: known[name](int(n), float(seconds))))


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else calls(*sys.argv[2:4], sys.argv[4:])
