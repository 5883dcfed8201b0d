--- AWS access keys: every request is signed, with Signature Version 4 or 4a.
-- "AWS Signature Version 4 for API requests" (IAM User Guide) and the Amazon S3 API Reference. What the sandbox signed
-- with its placeholders is taken off, and the request is signed as it goes out: in the header, or in the query where it
-- came presigned. A body with its hash in x-amz-content-sha256, or UNSIGNED-PAYLOAD, streams; one in signed chunks is
-- signed again chunk by chunk while it streams; without that header it is read and hashed, up to 16 MiB.
--
-- For: AWS (SDKs, CLI, Terraform), and what speaks S3: MinIO, Cloudflare R2, Backblaze B2, Ceph.
--   sallyport credential add aws --type aws_sigv4 --host '*.amazonaws.com' --host '*.api.aws' \
--     access_key_id=AKIAIOSFODNN7EXAMPLE secret_access_key=@key.txt
--   sallyport credential add r2 --type aws_sigv4 --host '*.r2.cloudflarestorage.com' region=auto service=s3 \
--     access_key_id=0a1b secret_access_key=-
-- Fields: access_key_id and secret_access_key (secret), set together; session_token (secret), of temporary keys; region
-- and service, which Amazon's own hosts do not need: there the sandbox's own signature says them, if its region is the
-- host's, or else the host does. What Amazon calls somebody's machine, balancer or site (compute, elb, s3-website) is
-- signed for only where both are given: its owner would see a signature, and the session's token.
-- A presigned URL is signed again if it bears this credential's placeholder; with another key it is somebody else's,
-- and does not match. Calls that make further credentials (IAM, STS, …) are refused unless mint=allow.
return {
  kind   = "type",
  api    = 1,
  name   = "aws_sigv4",
  title  = "AWS access keys (Signature Version 4)",
  fields = {
    { name = "access_key_id", required = true, group = "keys", help = "AKIA…, or ASIA… with a session token" },
    { name = "secret_access_key", secret = true, required = true, group = "keys" },
    { name = "session_token", secret = true, group = "keys", help = "Of temporary keys" },
    { name = "region", help = "Where the host does not say it: us-east-1, auto" },
    { name = "service", help = "Where the host does not say it: s3, execute-api" },
  },
  env          = { name = "AWS_ACCESS_KEY_ID", shape = "AKIA{16:upper}", more = {
    AWS_SECRET_ACCESS_KEY = "{40}", AWS_SESSION_TOKEN = { "IQoJb3JpZ2luX2Vj{200:url}", field = "session_token" } } },
  sends_secret = false,
  clock        = true,
  -- Signatures of versions 2 and 4, in the head and in the URL.
  strip   = {
    headers = { "x-amz-date", "x-amz-security-token", "x-amz-region-set" },
    query   = {
      "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
      "X-Amz-Security-Token", "X-Amz-Region-Set", "AWSAccessKeyId", "Signature", "SignatureVersion", "SignatureMethod",
    },
  },
  foreign = { "X-Amz-Credential", "AWSAccessKeyId" },
  mint    = aws.mint,
  body    = aws.body,

  validate = function(cred, hosts) return aws.check(cred, hosts) end,

  apply = function(req, cred)
    return aws.sign(req, cred, {
      access_key = cred.access_key_id, secret = cred.secret_access_key, token = cred.session_token,
    })
  end,

  -- In examples it is always 2023-11-14T22:13:20Z. The signatures are botocore's.
  examples = {
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s" },
      req  = { url = "https://bucket.s3.eu-west-1.amazonaws.com/key", headers = { ["x-amz-date"] = "20150830T123600Z" } },
      want = { headers = {
        ["x-amz-content-sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20231114/eu-west-1/s3/aws4_request, "
          .. "SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
          .. "Signature=7bf0a5c4935846694d7806ba4aee08941e23ae3df45049fd52f1241297135e64" } } },
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s", session_token = "t" },
      req  = { url = "https://sts.amazonaws.com/?Action=GetCallerIdentity",
               headers = { ["x-amz-security-token"] = "placeholder" } },
      want = { headers = {
        ["x-amz-security-token"] = "t", ["x-amz-content-sha256"] = false,
        authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20231114/us-east-1/sts/aws4_request, "
          .. "SignedHeaders=host;x-amz-date;x-amz-security-token, "
          .. "Signature=9d8bd306fea9bea77f2227112a1573fd2af39fb63559e9a6e07630a0e835b4e5" } } },
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s" },
      req  = { url = "https://minio.example.com/bucket" }, want = { error = "injection_failed" } },
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s" },
      req  = { url = "https://s3.eu-west-1.amazonaws.com/bucket",
               headers = { ["x-amz-content-sha256"] = "STREAMING-AWS4-HMAC-SHA256-EVENTS" } },
      want = { error = "injection_failed" } },
  },
}
