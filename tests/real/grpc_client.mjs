// @grpc/grpc-js as an agent's client: grpc_client.mjs PACKAGES TARGET CA.pem METADATA; the shapes of a call to grpc_peer.py, errors, a deadline and a
// cancelled call; prints what came of each as one object. The proxy comes from grpc_proxy.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [packages, target, ca, metadata] = process.argv.slice(2);
const grpc = createRequire(packages + "/")("@grpc/grpc-js");
const same = (b) => b;
const method = (name, requestStream, responseStream) => ({
  path: `/test.Echo/${name}`, requestStream, responseStream, requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same });
const Echo = grpc.makeGenericClientConstructor({
  unary: method("Unary", false, false), down: method("Down", false, true), up: method("Up", true, false), both: method("Both", true, true),
  fail: method("Fail", false, false), sleep: method("Sleep", false, false) }, "Echo");
const client = new Echo(target, grpc.credentials.createSsl(readFileSync(ca)), { "grpc.max_receive_message_length": 20 << 20 });
const meta = () => { const m = new grpc.Metadata(); m.set(...metadata.split("=", 2)); return m; };
const told = (f) => new Promise((done) => f((e, m) => done(e ? { code: e.code, details: e.details } : m)));
const all = async (call) => { const out = []; for await (const m of call) out.push(m); return out; };
const out = {};

const large = Buffer.alloc(4 << 20, "x");
const unary = await told((f) => client.unary(large, meta(), f));
out.unary = Buffer.isBuffer(unary) ? unary.length : unary;
out.down = (await all(client.down(Buffer.from("20"), meta()))).map((m) => m.length);
out.up = String(await told((f) => {
  const call = client.up(meta(), f);
  for (let i = 0; i < 50; i++) call.write(Buffer.alloc(1000));
  call.end();
}));
const both = client.both(meta()), got = [];
both.write(Buffer.from("m0"));
for await (const m of both) {           // each message goes out when the answer to the one before it has come
  if (got.push(String(m)) < 10) both.write(Buffer.from(`m${got.length}`)); else both.end();
}
out.both = got;
out.fail = await told((f) => client.fail(Buffer.alloc(0), meta(), f));
out.late = await told((f) => client.sleep(Buffer.alloc(0), meta(), { deadline: Date.now() + 700 }, f));
out.cancelled = await told((f) => { const call = client.sleep(Buffer.alloc(0), meta(), f); setTimeout(() => call.cancel(), 500); });
client.close();
console.log(JSON.stringify(out));
