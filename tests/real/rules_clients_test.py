"""Shipped rules before the clients that people have: the AWS CLI, boto3, MCP's SDK, OpenAI's and Anthropic's SDKs, GitHub's gh. (git: git_test.)"""
import json
import os
import pathlib
import subprocess

import sallyport
from aws_test import REGION, Aws, file, need_botocore, need_cli
from aws_test import python as boto
from budget_test import LIMIT, answer, spent, sse, stream
from clients_test import environment, run
from mcp_test import Mcp, add
from oauth_test import NODE, NPM

HERE = pathlib.Path(__file__).resolve().parent
API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-clients-1"}}


def fails(argv, env, why, **options):
    r = subprocess.run([str(a) for a in argv], env=env, capture_output=True, text=True, timeout=120 * sallyport.SLOW, **options)
    assert r.returncode != 0 and why in r.stdout + r.stderr, (argv, r.returncode, r.stdout[-500:], r.stderr[-1500:])
    return r.stdout + r.stderr


def test_s3(t):
    """s3: the AWS CLI copies files up and down; what removes, copies or opens up is refused, by the CLI and by boto3, one by one and in a batch"""
    once(t)
    need_cli(t)
    need_botocore(t)
    a = Aws(t)
    a.s.cli("rule", "add", "objects", "--type", "s3")
    aws = ["/usr/bin/aws", "--region", REGION]
    data = file(a, 100_000)
    run([*aws, "s3", "cp", data, "s3://bucket/a"], a.env, timeout=120)
    run([*aws, "s3", "cp", "s3://bucket/a", a.s.dir / "back"], a.env, timeout=120)
    assert (a.s.dir / "back").read_bytes() == data.read_bytes()
    fails([*aws, "s3", "rm", "s3://bucket/a"], a.env, "403")
    fails([*aws, "s3", "cp", "s3://bucket/a", "s3://bucket/b"], a.env, "403")
    fails([*aws, "s3", "mv", "s3://bucket/a", a.s.dir / "moved"], a.env, "403")
    out = boto(a, """
import boto3, botocore
s3 = boto3.client("s3")
def refused(call, **args):
    try:
        getattr(s3, call)(Bucket="bucket", **args)
    except botocore.exceptions.ClientError as e:
        return e.response["ResponseMetadata"]["HTTPStatusCode"]
    return 200
print(refused("put_object", Key="c", Body=b"x"), refused("delete_object", Key="a"), refused("delete_objects", Delete={"Objects": [{"Key": "a"}, {"Key": "c"}]}),
      refused("copy_object", Key="d", CopySource="bucket/a"), refused("put_bucket_policy", Policy="{}"), refused("put_object_acl", Key="a", ACL="public-read"))
""")
    assert out.split() == ["200", "403", "403", "403", "403", "403"], out
    assert {k.split("/")[-1] for k in map(str, a.server.objects)} and len(a.server.objects) == 2, list(a.server.objects)
    record = a.s.wait_record({"error": "rule_denied"})
    assert record["reason"] == "rule objects", record


def once(t):
    if "asan" in t.binary:
        t.skip("once, in the test build")


def need_sdk(t, name):
    if not NODE.exists() or not (NPM / name).exists():
        t.skip(f"{name} is not installed")


def client(s, env, *args):
    r = subprocess.run([NODE, HERE / "rules_client.mjs", NPM, *args], env={**env, "NODE_USE_ENV_PROXY": "1", "OPENAI_BASE_URL": "https://api.test/v1",
                       "ANTHROPIC_BASE_URL": "https://api.test"}, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout, r.stderr)
    assert "canary" not in r.stdout
    return json.loads(r.stdout)


CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5-mini", "choices": [{"index": 0, "message": {"role": "assistant",
        "content": "hello", "refusal": None}, "logprobs": None, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}}
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}
CHAT_STREAM = [*sse({**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hel"}, "finish_reason": None}], "usage": None},
                    {**CHUNK, "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}], "usage": None},
                    {**CHUNK, "choices": [], "usage": CHAT["usage"]}), "data: [DONE]\n\n"]
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5-mini", "output": [{"type": "message", "id": "msg_1",
            "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "hello", "annotations": []}]}],
            "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [{"type": "text", "text": "hello"}],
           "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 25, "output_tokens": 15}}
EVENTS = [{"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 25, "output_tokens": 1}}},
          {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
          {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}, {"type": "content_block_stop", "index": 0},
          {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 15}}, {"type": "message_stop"}]
MESSAGE_STREAM = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in EVENTS]


def models(t, sdk, model, replies, far, *more):
    """replies: how the SDK is called -> what the provider answers, and what that costs"""
    once(t)
    need_sdk(t, "openai" if sdk == "openai" else "@anthropic-ai/sdk")
    s, up = t.proxy(workers=1, credentials=[API])
    s.cli("set", "body-max", "64k")         # so that a call with a picture streams
    s.cli("rule", "add", "models", "--type", "llm", f"models={model}", "max_tokens=100000000", "--path", "/v1")
    s.cli("rule", "add", "spent", "--type", "budget", f"tokens={LIMIT}", "per=agent", "--path", "/v1")
    env, total = environment(s), 0
    for how, (reply, cost) in replies.items():
        up.reset({"reply": reply})
        if how == "file":
            s.cli("rule", "disable", "spent")   # it reads the body whole
        got = client(s, env, sdk, model, "500", how)
        assert got == {"got": "hello"}, (how, got)
        assert up.requests[-1].get("authorization") == "Bearer canary-clients-1", how
        up.reset({"reply": reply})
        got = client(s, env, sdk, far, "500", how)
        # OpenAI's SDK takes `error` for its message, Anthropic's the whole body
        assert got.get("status") == 403 and ("rule_denied" if sdk == "openai" else f"the model {far} is not allowed here") in got["error"], (how, got)
        assert up.requests == [], how
        if how == "file":
            s.cli("rule", "enable", "spent")
        total += cost
    s.cli("rule", "remove", "models")
    spent(s, total)
    got = client(s, env, sdk, model, str(LIMIT), "stream")
    assert got.get("status") == 403 and ("rule_denied" if sdk == "openai" else "rule spent") in got["error"], got
    assert not s.leaks()


def test_openai(t):
    """llm, budget: OpenAI's SDK, chats, streams and Responses; another model is refused in words that the SDK raises, with a picture over body-max, too"""
    models(t, "openai", "gpt-5-mini", {"plain": (answer(CHAT), 30), "stream": (stream(*CHAT_STREAM), 30), "responses": (answer(RESPONSE), 12),
                                       "file": (answer(CHAT), 0)}, "gpt-5-pro")


def test_anthropic(t):
    """llm, budget: Anthropic's SDK, messages and streams, with a picture over body-max, too"""
    models(t, "anthropic", "claude-haiku-4-5", {"plain": (answer(MESSAGE), 40), "stream": (stream(*MESSAGE_STREAM), 40), "file": (answer(MESSAGE), 0)}, "claude-opus-4-5")


def test_mcp(t):
    """mcp_tools: the SDK's client sees the tools that it may call, and is told why it may not call another"""
    once(t)
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir)
    add(s, "box", server.url)
    s.serve()
    env = {"PATH": os.environ["PATH"], "HTTP_PROXY": s.proxy_url()}
    s.cli("rule", "add", "tools", "--type", "mcp_tools", "allow=who*")
    got = client(s, env, "mcp", server.url, "whoami")["got"]
    assert got["tools"] == ["whoami"] and not got["called"].startswith("error"), got
    s.cli("rule", "set", "tools", "deny=*ami")
    got = client(s, env, "mcp", server.url, "whoami")["got"]
    assert got["tools"] == [] and "rule tools" in got["called"], got


def test_gh(t):
    """fields and graphql: gh reads, and opens an issue with the labels that are allowed; mutations by `gh api graphql`, two operations and another label are refused"""
    once(t)
    t.need("gh")
    s, up = t.proxy(workers=1, credentials=[{"name": "gh", "type": "bearer", "host": "api.test", "env": "GH_TOKEN", "secrets": {"token": "canary-clients-2"}}],
                    upstream={"reply": answer({"number": 7, "data": {"viewer": {"login": "octocat"}}})})
    s.cli("rule", "add", "labels", "--type", "fields", "--path", "/repos", "--method", "POST", "member=labels", "only=bug", "only=agent/*")
    s.cli("rule", "add", "queries", "--type", "graphql", "--path", "/graphql", "operations=query")
    env = {**environment(s), "GH_NO_UPDATE_NOTIFIER": "1", "GH_PROMPT_DISABLED": "1"}

    def gh(*args):
        return ["gh", "api", *args]
    run(gh("https://api.test/repos/acme/site"), env)
    run(gh("https://api.test/repos/acme/site/issues", "-f", "title=x", "-f", "labels[]=bug", "-f", "labels[]=agent/1"), env)
    assert json.loads(up.requests[-1].body) == {"title": "x", "labels": ["bug", "agent/1"]} and up.requests[-1].get("authorization") == "Bearer canary-clients-2"
    n = len(up.requests)
    fails(gh("https://api.test/repos/acme/site/issues", "-f", "title=x", "-f", "labels[]=bug", "-f", "labels[]=admin"), env, "labels may be bug or agent/* alone")
    run(gh("https://api.test/graphql", "-f", "query={ viewer { login } }"), env)
    fails(gh("https://api.test/graphql", "-f", "query=mutation { deleteRef(input: {refId: \"x\"}) { clientMutationId } }"), env, "rule queries")
    fails(gh("https://api.test/graphql", "-f", "query=query A { viewer { login } } mutation B { deleteRef { x } }", "-f", "operationName=A"), env, "rule queries")
    assert len(up.requests) == n + 1
    assert not s.leaks()
