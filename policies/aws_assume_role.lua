--- An AWS role: keys that may assume it are traded for temporary ones, which sign every request.
-- AWS STS API Reference, AssumeRole; signing is that of aws_sigv4: "AWS Signature Version 4 for API requests".
--
-- For: AWS, where agents get less than the keys at hand, for an hour at a time, in another account perhaps.
--   sallyport credential add deploy --type aws_assume_role --host '*.amazonaws.com' --host '*.api.aws' \
--     access_key_id=AKIAIOSFODNN7EXAMPLE secret_access_key=@key.txt role_arn=arn:aws:iam::123456789012:role/agent
-- Fields: access_key_id and secret_access_key (secret), set together, and session_token (secret), of temporary keys: who
-- assumes the role; role_arn; external_id, which the role of another company asks for; session_name, which CloudTrail
-- shows; duration of a session, seconds; region, where STS is asked and where a host does not say its own; service.
-- The role's keys are renewed five minutes before they end, and when an answer says that they ended (ExpiredToken, or
-- 403, at most once a minute). Calls that make further credentials are refused unless mint=allow.
local AT = "AssumeRoleResponse.AssumeRoleResult.Credentials."

return {
  kind   = "type",
  api    = 1,
  name   = "aws_assume_role",
  title  = "AWS role (STS AssumeRole)",
  fields = {
    { name = "access_key_id", required = true, group = "keys", help = "AKIA…, or ASIA… with a session token" },
    { name = "secret_access_key", secret = true, required = true, group = "keys" },
    { name = "session_token", secret = true, group = "keys", help = "Of temporary keys" },
    { name = "role_arn", required = true, help = "arn:aws:iam::ACCOUNT:role/NAME" },
    { name = "external_id", help = "Where the role's trust policy asks for one" },
    { name = "session_name", default = "sallyport", help = "What CloudTrail calls the session" },
    { name = "duration", type = "integer", default = 3600, min = 900, max = 43200, help = "Of a session, in seconds" },
    { name = "region", help = "Of STS, and where a host does not say its own" },
    { name = "service", help = "Where the host does not say it: s3, execute-api" },
  },
  env          = { name = "AWS_ACCESS_KEY_ID", shape = "AKIA{16:upper}", more = { AWS_SECRET_ACCESS_KEY = "{40}" } },
  sends_secret = false,
  clock        = true,
  endpoints    = { "*.amazonaws.com", "*.amazonaws.com.cn", "*.amazonaws.eu", "*.c2s.ic.gov", "*.sc2s.sgov.gov", "*.csp.hci.ic.gov",
                   "*.cloud.adc-e.uk" },
  expired      = { 403, "ExpiredToken", "ExpiredTokenException" },
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

  validate = function(cred, hosts)
    if not aws.sts(cred.role_arn) then
      return nil, "role_arn", "is a role's ARN: arn:aws:iam::123456789012:role/NAME"
    end
    if not cred.session_name:find("^[%w+=,.@_-]+$") or #cred.session_name < 2 or #cred.session_name > 64 then
      return nil, "session_name", "is 2 to 64 letters, digits and + = , . @ _ -"
    end
    if cred.external_id and not (cred.external_id:find("^[%w+=,.@:/_-]+$") and #cred.external_id >= 2) then
      return nil, "external_id", "is letters, digits and + = , . @ : / _ -"
    end
    return aws.check(cred, hosts)
  end,

  apply = function(req, cred)
    return aws.sign(req, cred, {
      access_key = cred.state.access_key_id, secret = cred.state.secret_access_key, token = cred.state.session_token,
    })
  end,

  refresh = function(cred, net, deadline)
    local host, region = aws.sts(cred.role_arn, cred.region)
    local now = time.wall()
    local body = form {
      { "Action", "AssumeRole" }, { "Version", "2011-06-15" }, { "RoleArn", cred.role_arn },
      { "RoleSessionName", cred.session_name }, { "DurationSeconds", cred.duration },
      cred.external_id and { "ExternalId", cred.external_id } or nil,
    }
    local headers = sign.sigv4 {
      method = "POST", host = host, path = "/", body = body, access_key = cred.access_key_id,
      secret = cred.secret_access_key, token = cred.session_token, region = region, service = "sts",
    }
    headers[#headers + 1] = { "accept", "application/json" }
    headers[#headers + 1] = { "content-type", "application/x-www-form-urlencoded" }
    local answer, code, detail = net.request({
      method = "POST", url = "https://" .. host .. "/", headers = headers, body = body,
      expect = {
        [AT .. "AccessKeyId"] = "secret", [AT .. "SecretAccessKey"] = "secret", [AT .. "SessionToken"] = "secret",
        [AT .. "Expiration"] = "number", ["Error.Code"] = "string",
      },
    }, deadline)
    if not answer then return nil, code, detail end
    return aws.assumed(answer, now, cred.duration)
  end,

  -- In examples it is always 2023-11-14T22:13:20Z.
  examples = {
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s", role_arn = "arn:aws:iam::123456789012:role/agent",
               state = { access_key_id = "ASIAIOSFODNN7EXAMPLE", secret_access_key = "t", session_token = "u" } },
      req  = { url = "https://s3.eu-west-1.amazonaws.com/bucket", headers = { ["x-amz-security-token"] = "placeholder" } },
      want = { headers = { ["x-amz-security-token"] = "u" } } },
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s", role_arn = "arn:aws:iam::123456789012:role/agent",
               state = { access_key_id = "ASIAIOSFODNN7EXAMPLE", secret_access_key = "t", session_token = "u" } },
      req  = { url = "https://minio.example.com/bucket" }, want = { error = "injection_failed" } },
  },
}
