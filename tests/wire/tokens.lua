--- Types that sign: gcp_access_token, gcp_iap, oauth_jwt_bearer, jwt, github_app, and private_key_jwt. What is signed is
-- verified in tests/real/tokens_test.py; here is what a token endpoint may answer, and what an agent must not reach.
local keys = dofile "tests/unit/keys.lua"
local get = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"

local function quoted(s) return '"' .. s:gsub("\n", "\\n") .. '"' end
local function account(token_uri)
  return ('{"type":"service_account","client_email":"canary-not-secret@p.test","private_key_id":"k1","token_uri":"%s","private_key":%s}')
    :format(token_uri or "https://auth.test/token", quoted(keys.rsa_pkcs8))
end

local kinds = {
  gcp_access_token = { {}, { key = account() } },
  gcp_iap = { { audience = "1-a.apps.googleusercontent.com" }, { key = account() } },
  oauth_jwt_bearer = { { token_url = "https://auth.test/token", issuer = "i" }, { private_key = keys.rsa } },
  oauth_client_credentials = { { token_url = "https://auth.test/token", client_id = "i", algorithm = "ES256" }, { private_key = keys.p256 } },
  jwt = { { ["claims.iss"] = "me" }, { private_key = keys.p256 } },
  github_app = { { api_url = "https://auth.test/api/v3", app_id = "1", installation_id = "7" }, { private_key = keys.rsa } },
}
local function setup(kind, fields, more)
  local c = { name = "cc", type = kind, host = "api.test", fields = {}, secrets = kinds[kind][2] }
  for k, v in pairs(kinds[kind][1]) do c.fields[k] = v end
  for k, v in pairs(fields or {}) do c.fields[k] = v end
  for k, v in pairs(more or {}) do c[k] = v end
  if kind == "github_app" then    -- its API's host is one of its own
    c.host = type(c.host) == "table" and c.host or { c.host }
    if c.host[#c.host] ~= "auth.test" then c.host[#c.host + 1] = "auth.test" end
  end
  return c
end

local cases = {}
local function case(c)
  c.servers = c.servers or { auth = { host = "auth.test" } }
  c.send = c.send or get
  c.canaries = { "canary-t1", "canary-t2", "canary-text" }
  cases[#cases + 1] = c
end

local answers = {
  gcp_access_token = '{"access_token":"canary-t1","expires_in":3599,"token_type":"Bearer"}',
  gcp_iap = '{"id_token":"canary-t1"}',
  oauth_jwt_bearer = '{"access_token":"canary-t1","instance_url":"https://x.test","token_type":"Bearer"}',
  oauth_client_credentials = '{"access_token":"canary-t1","expires_in":3600}',
  github_app = { status = 201, type = "application/json", body = '{"token":"canary-t1","expires_at":"2999-01-01T00:00:00Z"}' },
}
for kind, answer in pairs(answers) do
  local final = kind ~= "github_app" and 1 or nil   -- GitHub has no invalid_grant: its 400 may be asked again
  case { name = kind .. ": the token is got once and goes out", credential = setup(kind), token_endpoint = { answer },
    send = { get, { answers = 1 }, get },
    expect = { statuses = { 200, 200 }, token_requests = 1,
      upstream = { requests = 2, header = { authorization = "Bearer canary-t1" } } } }
  case { name = kind .. ": invalid_grant is final, and the server's text is nobody's", credential = setup(kind),
    token_endpoint = { { status = 400, body = '{"error":"invalid_grant","error_description":"canary-text"}' } },
    send = { get, { answers = 1 }, get },
    expect = { statuses = { 502, 502 }, error = "oauth_refresh_failed", token_requests = final, upstream = "nothing" } }
  case { name = kind .. ": 500 may pass", credential = setup(kind), token_endpoint = { { status = 500, body = "canary-text" } },
    expect = { status = 503, error = "injection_unavailable", upstream = "nothing" } }
  for _, bad in ipairs { "[]", '{"access_token":5,"id_token":5,"token":5}', '{"access_token":"","id_token":"","token":""}' } do
    case { name = ("%s: an answer of %s is none"):format(kind, bad), credential = setup(kind),
      token_endpoint = { kind == "github_app" and { status = 201, body = bad } or { body = bad } },
      expect = { status = 502, error = "oauth_refresh_failed", upstream = "nothing" } }
  end
end
case { name = "gcp_iap: an access token where an ID token was asked for is none", credential = setup "gcp_iap",
  token_endpoint = { '{"access_token":"canary-t1"}' }, expect = { status = 502, error = "oauth_refresh_failed", upstream = "nothing" } }
case { name = "gcp_iap: in Proxy-Authorization, and the agent's own never", credential = setup("gcp_iap", { header = "proxy-authorization" }),
  token_endpoint = { answers.gcp_iap },
  send = "GET /x HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer mine\r\nProxy-Authorization: Bearer mine\r\nProxy_Authorization: mine\r\n\r\n",
  expect = { status = 200, upstream = { header = { ["proxy-authorization"] = "Bearer canary-t1" }, no_header = "authorization", head_not = { "mine" } } } }

case { name = "a key file's token_uri is the credential's own token endpoint", host = "auth.test",
  credential = setup("gcp_access_token", {}, { host = { "api.test", "auth.test" } }), token_endpoint = { answers.gcp_access_token },
  send = "POST /token HTTP/1.1\r\nHost: auth.test\r\nContent-Length: 0\r\n\r\n",
  expect = { status = 403, error = "token_endpoint", token_requests = 0 } }
case { name = "and is reached at its path alone", credential = setup("gcp_access_token", {}, { host = { "api.test", "auth.test" } }), host = "auth.test",
  token_endpoint = { answers.gcp_access_token, "echo" }, send = "GET /token/x HTTP/1.1\r\nHost: auth.test\r\n\r\n",
  expect = { status = 200, servers = { auth = { header = { authorization = "Bearer canary-t1" } } } } }
case { name = "the root of GitHub's API is an agent's too", credential = setup("github_app", {}, { host = { "api.test", "auth.test" } }), host = "auth.test",
  token_endpoint = { answers.github_app, "echo" }, send = "GET /api/v3 HTTP/1.1\r\nHost: auth.test\r\n\r\n",
  expect = { status = 200, servers = { auth = { requests = 2, header = { authorization = "Bearer canary-t1" } } } } }

local function refused(kind, name, line, host, code)
  case { name = kind .. ": " .. name, credential = setup(kind, {}, { host = { "api.test", host } }), host = host,
    token_endpoint = { answers[kind] }, servers = { auth = { host = { "auth.test", host } } },
    send = line .. " HTTP/1.1\r\nHost: " .. host .. "\r\nContent-Length: 0\r\n\r\n",
    expect = { status = 403, error = code or "mint_denied", upstream = "nothing" } }
end
refused("github_app", "an installation token is refused", "POST /api/v3/app/installations/9/access_tokens", "ghe.test")
refused("github_app", "on api.github.com too", "POST /app/installations/9/access_tokens", "api.github.com")
refused("github_app", "a runner's token", "POST /orgs/acme/actions/runners/registration-token", "api.github.com")
refused("github_app", "an OAuth token", "PATCH /applications/Iv1/token", "api.github.com")
refused("gcp_access_token", "a service account's token", "POST /v1/projects/-/serviceAccounts/a@p.test:generateAccessToken", "iamcredentials.googleapis.com")
refused("gcp_access_token", "an ID token", "POST /v1/projects/-/serviceAccounts/a@p.test:generateIdToken", "iamcredentials.googleapis.com")
refused("gcp_access_token", "a signature", "POST /v1/projects/-/serviceAccounts/a@p.test:signBlob", "iamcredentials.googleapis.com")
refused("gcp_access_token", "a signature, its colon escaped", "POST /v1/projects/-/serviceAccounts/a@p.test%3AsignJwt", "iamcredentials.googleapis.com")
refused("gcp_access_token", "a key of a service account", "POST /v1/projects/p/serviceAccounts/a@p.test/keys", "iam.googleapis.com")
refused("gcp_access_token", "a token, by another name of the API", "POST /v1/projects/-/serviceAccounts/a@p.test:generateAccessToken", "content-iamcredentials.googleapis.com")
refused("gcp_access_token", "a key, by another name of the API", "POST /v1/projects/p/serviceAccounts/a@p.test/keys", "iam.mtls.googleapis.com")
refused("gcp_access_token", "an HMAC key", "POST /storage/v1/projects/p/hmacKeys?serviceAccountEmail=x", "storage.googleapis.com")
refused("gcp_access_token", "an API key in clear", "GET /v2/projects/p/locations/global/keys/1/keyString", "apikeys.googleapis.com")
refused("gcp_access_token", "a token of Google's", "POST /token", "oauth2.googleapis.com", "token_endpoint")

for code, words in pairs { ["401"] = "does not take the App", ["404"] = "no such installation", ["422"] = "those repositories or permissions", ["403"] = "refuses" } do
  case { name = "github_app: GitHub's " .. code .. " is said in words", credential = setup "github_app",
    token_endpoint = { { status = tonumber(code), body = '{"message":"canary-text"}' } },
    expect = { status = 502, error = "oauth_refresh_failed", body_has = words, body_not = { "canary" }, upstream = "nothing" } }
end
case { name = "github_app: a rate limit may pass", credential = setup "github_app",
  token_endpoint = { { status = 403, headers = { ["Retry-After"] = "30" }, body = "{}" } }, expect = { status = 503, error = "injection_unavailable" } }
case { name = "github_app: git's hosts get Basic", credential = setup("github_app", {}, { host = "git.test" }), host = "git.test",
  hosts = "git.test", token_endpoint = { answers.github_app },
  send = "GET /o/r.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: git.test\r\n\r\n",
  expect = { status = 200, upstream = { header = { authorization = "Basic eC1hY2Nlc3MtdG9rZW46Y2FuYXJ5LXQx" } } } }
do
  local c = setup "github_app"
  c.fields.installation_id, c.fields.account = nil, "acme"
  case { name = "github_app: of a user, after no organization of that name", credential = c,
    token_endpoint = { { status = 404, body = "{}" }, '{"id":7}', answers.github_app },
    expect = { status = 200, token_requests = 3, servers = { auth = { lines = { "GET /api/v3/orgs/acme/installation HTTP/1.1",
      "GET /api/v3/users/acme/installation HTTP/1.1", "POST /api/v3/app/installations/7/access_tokens HTTP/1.1" } } } } }
  case { name = "github_app: an id that is no number is none", credential = c, token_endpoint = { '{"id":"../../x"}', { status = 404, body = "{}" } },
    expect = { status = 502, error = "oauth_refresh_failed" } }
end

case { name = "jwt: signed once for many requests, and anew when half of it is over", credential = setup "jwt",
  send = { get, { answers = 1 }, get, { answers = 2 }, { clock = 400 }, 0.1, get, { answers = 3 }, 0.3, get },
  expect = { statuses = { 200, 200, 200, 200 }, upstream = { requests = 4, head_has = { "authorization: Bearer eyJ" } }, token_requests = 0 } }
case { name = "jwt: in a header of its own, whatever the agent sent there", credential = setup("jwt", { header = "x-token", prefix = "" }),
  send = "GET /x HTTP/1.1\r\nHost: api.test\r\nX_Token: mine\r\nAuthorization: mine\r\n\r\n",
  expect = { status = 200, upstream = { no_header = "authorization", head_has = { "x-token: eyJ" }, head_not = { "mine" } }, token_requests = 0 } }

return cases
