--- Amazon EKS: AWS keys, as the token that a cluster takes.
-- A URL that asks STS who signed it (GetCallerIdentity), presigned for a minute by Signature Version 4 ("AWS Signature
-- Version 4 for API requests", IAM User Guide) together with the cluster's name in x-k8s-aws-id, goes to the cluster in
-- Base64: the cluster asks STS with it (kubernetes-sigs/aws-iam-authenticator, and `aws eks get-token`). Nobody is asked here.
--
-- For: clusters of EKS.
--   sallyport credential add eks --type aws_eks --host ABC.gr7.eu-west-1.eks.amazonaws.com cluster=demo region=eu-west-1 \
--     access_key_id=AKIAIOSFODNN7EXAMPLE secret_access_key=@key.txt ca=@cluster.pem
--   sallyport credential sandbox-file eks --agent claude --out kubeconfig
-- Fields: access_key_id and secret_access_key (secret), set together; session_token (secret), of temporary keys; cluster,
-- its name; region, whose STS is asked. The cluster takes a signature for 15 minutes; it is renewed five minutes before.
local LIFETIME = 900    -- s

-- A key in four steps, so that nobody who sees one signs for another day, region or service.
local function signed(cred, day, region, text)
  local key = "AWS4" .. cred.secret_access_key
  for _, part in ipairs { day, region, "sts", "aws4_request" } do key = sign.hmac("sha256", key, part) end
  return secret.hex(sign.hmac("sha256", key, text))
end

local function token(cred, now)
  local host, region = aws.sts(nil, cred.region)
  local moment = time.iso(now):gsub("[-:]", "")
  local day = moment:sub(1, 8)
  local scope = ("%s/%s/sts/aws4_request"):format(day, region)
  local query = ("Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%s&X-Amz-Date=%s"
    .. "&X-Amz-Expires=60"):format(secret.percent(cred.access_key_id .. "/" .. scope), moment)
  local names = "&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id"
  local session = cred.session_token and "&X-Amz-Security-Token=" .. secret.percent(cred.session_token) or ""
  -- What is signed has the parameters in their order; what is sent has them in that of AWS's own program.
  local request = ("GET\n/\n%s"):format(query) .. session .. ("%s\nhost:%s\nx-k8s-aws-id:%s\n\nhost;x-k8s-aws-id\n"):format(names, host, cred.cluster)
    .. secret.hex(sign.sha256(""))
  local signature = signed(cred, day, region, ("AWS4-HMAC-SHA256\n%s\n%s\n"):format(moment, scope) .. secret.hex(sign.sha256(request)))
  return "k8s-aws-v1." .. secret.base64url("https://" .. host .. "/?" .. query .. names .. session .. "&X-Amz-Signature=" .. signature)
end

return {
  kind   = "type",
  api    = 1,
  name   = "aws_eks",
  title  = "Amazon EKS: a cluster's token of AWS keys",
  fields = {
    { name = "access_key_id", required = true, group = "keys", help = "AKIA…, or ASIA… with a session token" },
    { name = "secret_access_key", secret = true, required = true, group = "keys" },
    { name = "session_token", secret = true, group = "keys", help = "Of temporary keys" },
    { name = "cluster", required = true, help = "The cluster's name" },
    { name = "region", required = true, help = "Whose STS says who signed: the cluster's" },
  },
  clock    = true,
  stand_in = { format = "kubeconfig" },

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  mint = {
    { method = "POST", path = "/api/v1/namespaces/*/serviceaccounts/*/token", what = "a service account's token" },
    { method = "POST", path = "/apis/certificates.k8s.io/*/certificatesigningrequests", what = "a client certificate" },
    { path = "/api/v1/namespaces/*/secrets/**", body = { "kubernetes.io/service-account-token", "!!binary", "yaml.org" },
      what = "a service account's token" },
  },

  validate = function(cred)
    if not cred.cluster:find("^%w[%w_-]*$") or #cred.cluster > 100 then
      return nil, "cluster", "is the cluster's name: letters, digits, '-' and '_'"
    end
    if not aws.sts(nil, cred.region) then return nil, "region", "is one of AWS's: eu-west-1" end
    return aws.check(cred)
  end,

  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)
  end,

  refresh = function(cred)
    local now = time.wall()
    return { secrets = { access_token = token(cred, now) }, expires_at = now + LIFETIME }
  end,

  -- In examples it is always 2023-11-14T22:13:20Z. The token is that of `aws eks get-token`.
  examples = {
    { cred = { access_key_id = "ASIAIOSFODNN7EXAMPLE", secret_access_key = "s", session_token = "tok/+==", cluster = "demo", region = "cn-north-1" },
      answers = {}, want = { state = { expires_at = 1700000900, access_token =
        "k8s-aws-v1.aHR0cHM6Ly9zdHMuY24tbm9ydGgtMS5hbWF6b25hd3MuY29tLmNuLz9BY3Rpb249R2V0Q2FsbGVySWRlbnRpdHkmVmVyc2lvbj0"
        .. "yMDExLTA2LTE1JlgtQW16LUFsZ29yaXRobT1BV1M0LUhNQUMtU0hBMjU2JlgtQW16LUNyZWRlbnRpYWw9QVNJQUlPU0ZPRE5ON0VYQU1QTEUlM"
        .. "kYyMDIzMTExNCUyRmNuLW5vcnRoLTElMkZzdHMlMkZhd3M0X3JlcXVlc3QmWC1BbXotRGF0ZT0yMDIzMTExNFQyMjEzMjBaJlgtQW16LUV4cGl"
        .. "yZXM9NjAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JTNCeC1rOHMtYXdzLWlkJlgtQW16LVNlY3VyaXR5LVRva2VuPXRvayUyRiUyQiUzRCUzR"
        .. "CZYLUFtei1TaWduYXR1cmU9MzU4MmZjZmMwYjQyODc4ZWU3ZTU1ODkwOGZiZDYwMWVmY2FiYjVjY2ZhYmRkNTJjNzQxNjlmYjkwOWE3MDMzNg" } } },
    { cred = { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "s", cluster = "demo", region = "eu-west-1",
               state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } }, want = { headers = { authorization = "Bearer t1" } } },
  },
}
