// What an agent would do with AWS's JavaScript SDK: s3client.mjs SCENARIO, with the environment of `sallyport env`.
// Prints one line of JSON: what came back, as SHA-256.
import crypto from "node:crypto";
import https from "node:https";
import { Readable } from "node:stream";
import { createRequire } from "node:module";

const load = createRequire(process.env.PACKAGES + "/x.js");
const { S3Client, PutObjectCommand, GetObjectCommand, HeadObjectCommand, DeleteObjectCommand, ListObjectsV2Command } = load("@aws-sdk/client-s3");
const { Upload } = load("@aws-sdk/lib-storage");
const { getSignedUrl } = load("@aws-sdk/s3-request-presigner");
const { NodeHttpHandler } = load("@smithy/node-http-handler");
const { HttpsProxyAgent } = await import(process.env.PACKAGES + "/node_modules/https-proxy-agent/dist/index.js");

const agent = new HttpsProxyAgent(process.env.HTTPS_PROXY, { keepAlive: true });
const client = (more = {}) => new S3Client({ region: "us-east-1", maxAttempts: 1,
	requestHandler: new NodeHttpHandler({ httpsAgent: agent }), ...more });
const Bucket = "jsbucket", sum = (data) => crypto.createHash("sha256").update(data).digest("hex");
const bytes = (n) => crypto.createHash("shake256", { outputLength: n }).update("seed").digest();
async function* pieces(data, n) {
	for (let i = 0; i < data.length; i += n)
		yield data.subarray(i, i + n);
}
async function back(s3, Key) {
	return sum(Buffer.from(await (await s3.send(new GetObjectCommand({ Bucket, Key }))).Body.transformToByteArray()));
}
function send(method, url, body) {
	return new Promise((resolve, reject) => {
		const r = https.request(url, { method, agent, headers: body ? { "content-length": body.length } : {} }, async (answer) => {
			const parts = [];
			for await (const p of answer)
				parts.push(p);
			resolve([answer.statusCode, Buffer.concat(parts)]);
		});
		r.on("error", reject);
		r.end(body);
	});
}

const scenarios = {
	async buffer() {
		const data = bytes(300_001), s3 = client();
		await s3.send(new PutObjectCommand({ Bucket, Key: "a dir/b+ü.bin", Body: data }));
		const head = await s3.send(new HeadObjectCommand({ Bucket, Key: "a dir/b+ü.bin" }));
		const list = await s3.send(new ListObjectsV2Command({ Bucket, Prefix: "a dir/" }));
		const got = await back(s3, "a dir/b+ü.bin");
		await s3.send(new DeleteObjectCommand({ Bucket, Key: "a dir/b+ü.bin" }));
		return { same: got === sum(data), size: head.ContentLength, keys: list.Contents.map((c) => c.Key) };
	},
	async stream() {            // SDK's default for streams: aws-chunked with a checksum as trailer
		const data = bytes(3_000_003), s3 = client();
		for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "SHA256"])
			await s3.send(new PutObjectCommand({ Bucket, Key: "s" + ChecksumAlgorithm, ChecksumAlgorithm,
				Body: Readable.from(pieces(data, 70_000)), ContentLength: data.length }));
		return { same: (await back(s3, "sCRC32")) === sum(data) && (await back(s3, "sSHA256")) === sum(data) };
	},
	async signed() {            // the payload's hash in the head
		const data = bytes(100_000), s3 = client({ requestChecksumCalculation: "WHEN_REQUIRED", responseChecksumValidation: "WHEN_REQUIRED" });
		await s3.send(new PutObjectCommand({ Bucket, Key: "signed", Body: data }));
		return { same: (await back(s3, "signed")) === sum(data) };
	},
	async unknown() {           // a stream whose length nobody knows: lib-storage makes parts
		const data = bytes(12_000_000), s3 = client();
		await new Upload({ client: s3, params: { Bucket, Key: "unknown", Body: Readable.from(pieces(data, 99_999)) }, partSize: 5 << 20 }).done();
		return { same: (await back(s3, "unknown")) === sum(data) };
	},
	async presigned() {
		const data = bytes(50_000), s3 = client({ requestChecksumCalculation: "WHEN_REQUIRED" });
		const put = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key: "pre" }), { expiresIn: 300 });
		const get = await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: "pre" }), { expiresIn: 300 });
		const [put_status] = await send("PUT", put, data), [get_status, got] = await send("GET", get);
		return { same: sum(got) === sum(data), put_status, get_status };
	},
};

console.log(JSON.stringify(await scenarios[process.argv[2]]()));
process.exit(0);
