"""SDKs that speak gRPC, as an agent uses them: grpc_sdks.py google|otlp|temporal TARGET PROXY CA.pem; prints what came. Trust and proxy come
from the environment that `sallyport env` makes, but for Temporal's SDK (Rust), which takes both as arguments."""
import asyncio
import json
import os
import sys
import urllib.parse

HELD = "placeholder-grpc"


def google(target, *_):
    from google.cloud import secretmanager
    from google.oauth2.credentials import Credentials
    client = secretmanager.SecretManagerServiceClient(credentials=Credentials(HELD), client_options={"api_endpoint": target})
    answer = client.access_secret_version(name="projects/p/secrets/s/versions/latest", timeout=20)
    try:
        client.get_secret(name="projects/p/secrets/none", timeout=20)
        error = None
    except Exception as e:
        error = [type(e).__name__, e.message]
    return {"name": answer.name, "data": answer.payload.data.decode(), "error": error}


def otlp(target, *_):
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"https://{target}", headers={"authorization": f"Bearer {HELD}"})))
    for i in range(100):
        with provider.get_tracer("t").start_as_current_span(f"span-{i}"):
            pass
    flushed = provider.force_flush(20000)
    provider.shutdown()
    return {"flushed": flushed}


def temporal(target, proxy, ca):
    from temporalio.client import Client, HttpConnectProxyConfig
    from temporalio.service import RPCError, TLSConfig

    async def run():
        url = urllib.parse.urlsplit(proxy)
        client = await Client.connect(target, tls=TLSConfig(server_root_ca_cert=open(ca, "rb").read()), api_key=HELD,
                                      http_connect_proxy_config=HttpConnectProxyConfig(f"{url.hostname}:{url.port}", (url.username, url.password)))
        handle = await client.start_workflow("Work", {"n": 1}, id="w1", task_queue="q")
        await handle.signal("go", 2)
        try:
            await handle.terminate("stop")
            error = None
        except RPCError as e:
            error = [e.status.name, e.message]
        return {"run": handle.result_run_id, "error": error}

    return asyncio.run(run())


if __name__ == "__main__":
    print(json.dumps({"google": google, "otlp": otlp, "temporal": temporal}[sys.argv[1]](*sys.argv[2:])), flush=True)
    os._exit(0)             # the threads of Temporal's SDK may outlive the interpreter, which then aborts
