--- AWS types on the wire: what the sandbox signed goes, one signature leaves; presigned URLs are ours or somebody else's.
local SCOPE = "20260101/us-east-1/s3/aws4_request"
local EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
local HOST = "bucket.s3.us-east-1.amazonaws.com"
local MINE = "AWS4-HMAC-SHA256 Credential=${ENV:AWS_ACCESS_KEY_ID}/" .. SCOPE .. ", SignedHeaders=host;x-amz-date, Signature=0123456789abcdef0123"

local function get(name, path, headers, expect, host)
  return { name = name, host = host or HOST,
    send = ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(path, host or HOST, headers or ""), expect = expect }
end

local function put(name, headers, body, expect, host)
  return { name = name, host = host or HOST,
    send = ("PUT /k HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(host or HOST, #body, headers, body),
    expect = expect }
end

local function presigned(key)
  return ("/key?a=1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%s%%2F20260101%%2Fus-east-1%%2Fs3%%2Faws4_request"
    .. "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=77&X-Amz-SignedHeaders=host&X-Amz-Signature=0123456789abcdef0123"):format(key)
end

local REAL = "Credential=AKIAREALKEY000000001/"

return {
  shared = {
    credential = {
      { name = "aws", type = "aws_sigv4", host = { "*.amazonaws.com" },
        fields = { access_key_id = "AKIAREALKEY000000001", ["headers.x-amz-meta-team"] = "blue" },
        secrets = { secret_access_key = "canary-aws-secret", session_token = "canary-aws-session" } },
      { name = "minio", type = "aws_sigv4", host = "minio.test", fields = { access_key_id = "minio", region = "r1", service = "s3" },
        secrets = { secret_access_key = "canary-minio-secret" } },
      { name = "bare", type = "aws_sigv4", host = "bare.compute-1.amazonaws.com", fields = { access_key_id = "bare" },
        secrets = { secret_access_key = "canary-bare-secret" } },
    },
    domains = { { host = "open.s3.us-east-1.amazonaws.com" } },
    hosts = { HOST, "open.s3.us-east-1.amazonaws.com", "sts.us-east-1.amazonaws.com", "minio.test", "bare.compute-1.amazonaws.com",
      "a.mrap.accesspoint.s3-global.amazonaws.com" },
  },
  cases = {
    get("the sandbox's signature, date and token are replaced, and the further headers are signed", "/k",
      "Authorization: " .. MINE .. "\r\nX-Amz-Date: 20260101T000000Z\r\nX_Amz_Security_Token: mine\r\n",
      { status = 200, upstream = { head_has = { REAL, "/us-east-1/s3/aws4_request", "x-amz-security-token: canary-aws-session",
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-team;x-amz-security-token", EMPTY },
        head_not = { "20260101T000000Z", "mine", "Signature=0123456789abcdef0123" } } }),
    get("a signature of another kind goes too", "/k?AWSAccessKeyId=${ENV:AWS_ACCESS_KEY_ID}&x=1", "Authorization: AWS AKIAX:sig\r\n",
      { status = 200, upstream = { head_has = { REAL }, head_not = { "AKIAX", "AWSAccessKeyId" }, line = "GET /k?x=1 HTTP/1.1" } }),
    get("a request with no signature is signed", "/k", "", { status = 200, upstream = { head_has = { REAL } } }),
    get("a URL presigned with the placeholder is signed again, its expiry kept", presigned "${ENV:AWS_ACCESS_KEY_ID}", "",
      { status = 200, upstream = { head_has = { "/key?a=1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAREALKEY000000001%2F",
        "X-Amz-Expires=77", "X-Amz-Security-Token=canary-aws-session", "X-Amz-Signature=" },
        head_not = { "X-Amz-Signature=0123456789abcdef0123", "authorization:", "Authorization:" } } }),
    get("a URL presigned with another key is somebody else's", presigned "AKIASOMEBODYELSE0000", "",
      { status = 403, error = "host_not_allowed", upstream = "nothing", body_has = "another key" }),
    get("also where its name is escaped", "/key?X%2DAmz%2DCredential=AKIASOMEBODYELSE0000%2F" .. SCOPE:gsub("/", "%%2F"), "",
      { status = 403, error = "host_not_allowed", upstream = "nothing" }),
    get("and goes out untouched where a domain entry lets it", presigned "AKIASOMEBODYELSE0000", "",
      { status = 200, upstream = { line = "GET " .. presigned "AKIASOMEBODYELSE0000" .. " HTTP/1.1", head_not = { "AKIAREAL" } } },
      "open.s3.us-east-1.amazonaws.com"),
    get("after which the credential decides again", "/key", "", { status = 200, upstream = { head_has = { REAL } } },
      "open.s3.us-east-1.amazonaws.com"),
    get("a mint call is refused", "/?Action=GetSessionToken", "", { status = 403, error = "mint_denied", upstream = "nothing" },
      "sts.us-east-1.amazonaws.com"),
    get("any other is not", "/?Action=GetCallerIdentity", "",
      { status = 200, upstream = { head_has = { "/us-east-1/sts/aws4_request" }, no_header = "x-amz-content-sha256" } },
      "sts.us-east-1.amazonaws.com"),
    get("a multi-region access point gets SigV4a", "/k", "",
      { status = 200, upstream = { head_has = { "AWS4-ECDSA-P256-SHA256 Credential=AKIAREALKEY000000001/", "/s3/aws4_request",
        "x-amz-region-set: *" } } }, "a.mrap.accesspoint.s3-global.amazonaws.com"),
    get("a host that is not Amazon's has its fields", "/k", "",
      { status = 200, upstream = { head_has = { "Credential=minio/", "/r1/s3/aws4_request" } } }, "minio.test"),
    get("or says which it lacks", "/k", "", { status = 502, error = "injection_failed", upstream = "nothing",
      body_has = "bare.compute-1.amazonaws.com is a name that Amazon gives to anybody's machine or site: the credential needs region=… and service=…" }, "bare.compute-1.amazonaws.com"),
    put("a body without a hash is hashed", "", "hello", { status = 200, upstream = { body = "hello",
      header = { ["x-amz-content-sha256"] = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" } } }),
    put("a body with one streams", "x-amz-content-sha256: " .. EMPTY .. "\r\n", "hello",
      { status = 200, upstream = { body = "hello", header = { ["x-amz-content-sha256"] = EMPTY } } }),
    put("chunks signed with ECDSA are refused by name", "x-amz-content-sha256: STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD\r\n",
      "x", { status = 502, error = "injection_failed", upstream = "nothing", body_has = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD" }),
    put("so are those with a trailer", "x-amz-content-sha256: STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER\r\n", "x",
      { status = 502, error = "injection_failed", upstream = "nothing", body_has = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" }),
    put("and signed events", "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-EVENTS\r\n", "x",
      { status = 502, error = "injection_failed", upstream = "nothing", body_has = "STREAMING-AWS4-HMAC-SHA256-EVENTS" }),
    { name = "explain says why a presigned URL is passed over", host = HOST, send = "GET / HTTP/1.1\r\nHost: " .. HOST .. "\r\n\r\n", expect = { status = 200, cli = { ["explain GET https://" .. HOST .. presigned "AKIAX"] = "somebody else's" } } },
  },
}
