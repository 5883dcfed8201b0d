"""Python's MCP client with its OAuth provider: door_client.py URL PORT MODE. Prints { open } where a person has to go, waits for them at
http://127.0.0.1:PORT/callback, then { version, tools, text }."""
import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from urllib.parse import parse_qs, urlsplit

URL, PORT, MODE = sys.argv[1:]


class Kept:
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


def say(**what):
    print(json.dumps(what), flush=True)


async def main():
    back = asyncio.get_running_loop().create_future()

    async def page(reader, writer):
        line = (await reader.readline()).decode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()
        q = {k: v[0] for k, v in parse_qs(urlsplit(line.split()[1]).query).items()}
        back.set_result(AuthorizationCodeResult(code=q["code"], state=q.get("state"), iss=q.get("iss")))
    await asyncio.start_server(page, "127.0.0.1", int(PORT))

    async def person(url):
        say(open=url)

    async def callback():
        return await back
    kept = Kept()
    metadata = OAuthClientMetadata(client_name="Python", redirect_uris=[f"http://127.0.0.1:{PORT}/callback"], token_endpoint_auth_method="none")
    auth = OAuthClientProvider(URL, metadata, kept, person, callback)
    async with httpx2.AsyncClient(auth=auth, follow_redirects=True, timeout=60) as http:
        async with Client(streamable_http_client(URL, http_client=http), mode=MODE) as client:
            tools = (await client.list_tools()).tools
            text = (await client.call_tool("test_simple_text", {})).content[0].text
            say(tools=[t.name for t in tools], text=text, tokens=json.loads(kept.tokens.model_dump_json()))
asyncio.run(main())
