// The MCP SDK's own client, as a sandbox has it: no token. node mcp_client.mjs NODE_MODULES URL http|sse [path] -> the tool's answer.
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
const [modules, url, kind] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { SSEClientTransport } = await load('@modelcontextprotocol/sdk/client/sse.js');
const client = new Client({ name: 'sandbox', version: '1' });
await client.connect(kind === 'sse' ? new SSEClientTransport(new URL(url)) : new StreamableHTTPClientTransport(new URL(url)));
const answer = await client.callTool({ name: 'whoami', arguments: {} });
console.log(answer.content[0].text);
await client.close();
process.exit(0);
