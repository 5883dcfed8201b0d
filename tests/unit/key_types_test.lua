--- The types that sign with a private key: what they send, what they say of a wrong field, what they make of answers.
-- Keys are plain text here, so that an assertion can be read; that a secret key makes secret ones is sign_test's.
local examples = require "cli.policy_examples"
local policy, sandbox, json = require "policy", require "sandbox", require "json"
local secret, sign = require "secret.core", require "sign"
local keys = dofile "tests/unit/keys.lua"
local from_base64url = keys.from_base64url

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function type_of(name) return assert(policy.compile(name, sandbox.default_source(name))) end

local function with(base, more)
  local out = {}
  for k, v in pairs(base) do out[k] = v end
  for k, v in pairs(more or {}) do out[k] = v end
  return out
end

-- Secrets as they are when a credential is saved.
local function sealed(pol, values)
  local out = {}
  for name, v in pairs(values) do
    local f = assert(pol.by_name[name], name)
    out[name] = f.secret and secret.as_field(secret.of(v)) or v
    if f.split then
      out[name] = {}
      for member, text in pairs(v) do
        out[name][member] = f.split[member].secret and secret.as_field(secret.of(text)) or text
      end
    end
  end
  return out
end

-- field, message where the values are refused; nothing where they are taken
local function refused(name, values)
  local pol = type_of(name)
  local ok, field, message = policy.check_credential(pol, sealed(pol, values))
  if not ok then return field, message end
end

local function says(part, name, values, field)
  local got, message = refused(name, values)
  assert(message and message:find(part, 1, true), tostring(message))
  is(got, field)
end

-- header, claims of a JWT that this key has signed
local function opened(jwt, alg, key)
  local h, c, s = jwt:match "^([^.]+)%.([^.]+)%.([^.]+)$"
  is(from_base64url(s), sign.signature(alg, key, h .. "." .. c))
  return json.decode(from_base64url(h)), json.decode(from_base64url(c))
end

-- The refresh of a type with these values, and what it sent: { url, form by name, … }, answer or nil and a code.
local function refreshed(name, values, answer)
  local pol, seen = type_of(name), nil
  local net = { token = function(url, spec)
    seen = { url = url, form = {}, basic = spec.basic, ttl = spec.ttl, member = spec.member }
    for _, p in ipairs(spec.form) do seen.form[p[1]] = p[2] end
    if answer then return table.unpack(answer, 1, 3) end
    return { secrets = { access_token = secret.of "t1" }, expires_at = 99 }
  end }
  local state, code = policy.refresh(pol, policy.view(pol, values), net, 0)
  return seen, state, code
end

local account = {
  type = "service_account", client_email = "robot@p.iam.gserviceaccount.com", token_uri = "https://oauth2.googleapis.com/token",
  private_key = keys.rsa_pkcs8, private_key_id = "kid1",
}
local bearer = { private_key = keys.rsa, issuer = "me", token_url = "https://login.test/token" }
local app = { app_id = "12345", installation_id = 42, private_key = keys.rsa }

-- The refresh of github_app against these answers, by "METHOD path".
local function installed(values, answers)
  local pol, asked = type_of "github_app", {}
  local net = { request = function(spec)
    local at = spec.method .. " " .. spec.url
    asked[#asked + 1] = { at = at, body = spec.body, headers = {} }
    for _, h in ipairs(spec.headers) do asked[#asked].headers[h[1]] = h[2] end
    local a = answers[at] or { status = 404 }
    return { status = a.status, values = a.values or {}, retry_after = a.retry_after, malformed = a.malformed }
  end }
  local state, code = policy.refresh(pol, policy.view(pol, with(app, values)), net, 0)
  return asked, state, code
end

local API = "https://api.github.com"
local function token_at(id, base) return "POST " .. (base or API) .. "/app/installations/" .. id .. "/access_tokens" end
local function minted(ends)
  return { status = 201, values = { token = secret.of "ghs_1", expires_at = ends } }
end

local cases = {
  ["gcp_access_token: the assertion is the one that Google documents"] = function()
    local seen, state = refreshed("gcp_access_token", { key = account, subject = "p@example.com", scopes = { "a", "b" } })
    is(seen.url, account.token_uri)
    is(seen.form.grant_type, "urn:ietf:params:oauth:grant-type:jwt-bearer")
    local h, c = opened(seen.form.assertion, "RS256", keys.rsa)
    is(h.alg .. " " .. h.typ .. " " .. h.kid, "RS256 JWT kid1")
    is(c.iss .. " " .. c.sub .. " " .. c.scope, "robot@p.iam.gserviceaccount.com p@example.com a b")
    is(c.aud, account.token_uri)
    is(c.exp - c.iat, 3600)
    is(state.expires_at, 99)
    _, c = opened(refreshed("gcp_access_token", { key = account }).form.assertion, "RS256", keys.rsa)
    is(c.scope, "https://www.googleapis.com/auth/cloud-platform")
    is(c.sub, nil)
  end,
  ["gcp_access_token passes the server's code on, and its key's trouble"] = function()
    is(select(3, refreshed("gcp_access_token", { key = account }, { nil, "invalid_grant" })), "invalid_grant")
    is(select(3, refreshed("gcp_access_token", { key = with(account, { private_key = keys.broken }) })), "bad_key")
  end,
  ["Google's types name what is wrong with a key file"] = function()
    for _, t in ipairs { { "gcp_access_token", {} }, { "gcp_iap", { audience = "https://a.test/" } } } do
      local function wrong(part, members) says(part, t[1], with(t[2], { key = with(account, members) }), "key") end
      is(refused(t[1], with(t[2], { key = account })), nil)
      wrong("of the type 'authorized_user'", { type = "authorized_user" })
      wrong("has a private_key that is no RSA key", { private_key = keys.p256 })
      wrong("has a private_key that has \\n spelled out", { private_key = keys.rsa:gsub("\n", "\\n") })
      wrong("has a private_key that is a certificate", { private_key = keys.certificate })
      wrong("has a 'token_uri' that does not begin with https://", { token_uri = "http://oauth2.example.com/token" })
      wrong("has a 'token_uri' that is not a URL", { token_uri = "oauth2.example.com" })
      local lacking = with(account)
      lacking.client_email = nil
      says("lacks 'client_email'", t[1], with(t[2], { key = lacking }), "key")
    end
  end,

  ["gcp_iap exchanges an assertion for an ID token where the audience is a client id"] = function()
    local seen, state = refreshed("gcp_iap", { key = account, audience = "1-a.apps.googleusercontent.com" })
    is(seen.member, "id_token")
    local _, c = opened(seen.form.assertion, "RS256", keys.rsa)
    is(c.target_audience, "1-a.apps.googleusercontent.com")
    is(c.aud, account.token_uri)
    is(c.scope, nil)
    is(state.expires_at, 99)
  end,
  ["gcp_iap signs by itself where the audience is a URL"] = function()
    local pol = type_of "gcp_iap"
    local values = sealed(pol, { key = account, audience = "https://app.test/*" })
    local now = require("time").wall()
    local state = policy.refresh(pol, policy.view(pol, values), {}, 0)
    assert(state.secrets.access_token and math.abs(state.expires_at - now - 3600) < 3)
  end,
  ["gcp_iap says what an audience is"] = function()
    for _, audience in ipairs { "app.example.com", "http://app.example.com", "https://", "x.apps.googleusercontent.com.evil.test" } do
      says("client id", "gcp_iap", { key = account, audience = audience }, "audience")
    end
  end,

  ["oauth_jwt_bearer: the assertion of RFC 7523 3"] = function()
    local seen = refreshed("oauth_jwt_bearer", with(bearer, { key_id = "k", scopes = { "a", "b" }, lifetime = 60,
      claims = { tenant = "7", level = "json:3", list = 'json:["x"]' }, params = { resource = "r" } }))
    local h, c = opened(seen.form.assertion, "RS256", keys.rsa)
    is(h.kid, "k")
    is(c.iss .. " " .. c.sub .. " " .. c.aud, "me me https://login.test/token")
    is(c.exp - c.iat, 60)
    is(#c.jti, 32)
    is(c.tenant, "7")
    is(c.level, 3)
    is(c.list[1], "x")
    is(c.scope, nil)
    is(seen.form.scope, "a b")
    is(seen.form.resource, "r")
    is(seen.form.client_id, nil)
    is(seen.basic, nil)
    local again = refreshed("oauth_jwt_bearer", bearer)
    local _, d = opened(again.form.assertion, "RS256", keys.rsa)
    assert(d.jti ~= c.jti)
  end,
  ["oauth_jwt_bearer: scopes as a claim, another audience, each algorithm"] = function()
    local seen = refreshed("oauth_jwt_bearer", with(bearer, { subject = "u", audience = "account-d.docusign.com",
      scopes = { "signature", "impersonation" }, scopes_in = "claim" }))
    local _, c = opened(seen.form.assertion, "RS256", keys.rsa)
    is(c.scope .. " " .. c.aud .. " " .. c.sub, "signature impersonation account-d.docusign.com u")
    is(seen.form.scope, nil)
    for alg, key in pairs { RS384 = keys.rsa, RS512 = keys.rsa, ES256 = keys.p256, ES384 = keys.p384 } do
      seen = refreshed("oauth_jwt_bearer", with(bearer, { algorithm = alg, private_key = key }))
      is((opened(seen.form.assertion, alg, key)).alg, alg)
    end
  end,
  ["oauth_jwt_bearer: the client beside the assertion, in the header or the body"] = function()
    local seen = refreshed("oauth_jwt_bearer", with(bearer, { client_id = "c", client_secret = "s" }))
    is(seen.basic[1] .. seen.basic[2], "cs")
    is(seen.form.client_id, nil)
    seen = refreshed("oauth_jwt_bearer", with(bearer, { client_id = "c", client_secret = "s", auth_method = "post" }))
    is(seen.basic, nil)
    is(seen.form.client_id .. seen.form.client_secret, "cs")
    seen = refreshed("oauth_jwt_bearer", with(bearer, { client_id = "c" }))
    is(seen.form.client_id, "c")
  end,
  ["oauth_jwt_bearer names the field at fault"] = function()
    local function wrong(part, field, more) says(part, "oauth_jwt_bearer", with(bearer, more), field) end
    is(refused("oauth_jwt_bearer", bearer), nil)
    wrong("passphrase", "private_key", { private_key = keys.encrypted, algorithm = "ES256" })
    wrong("JWK", "private_key", { private_key = '{"kty":"RSA"}' })
    wrong("is no RSA key, which RS256 needs", "private_key", { private_key = keys.p256 })
    wrong("is no EC key on P-256", "private_key", { algorithm = "ES256" })
    wrong("\\n spelled out", "private_key", { private_key = (keys.rsa:gsub("\n", "\\n")) })
    wrong("certificate", "private_key", { private_key = keys.certificate })
    wrong("2048", "private_key", { private_key = keys.weak })
    wrong("has 'iss', which the field issuer sets", "claims", { claims = { iss = "x" } })
    wrong("json: is not JSON", "claims", { claims = { x = "json:{" } })
    wrong("'assertion'", "params", { params = { assertion = "x" } })
    wrong("client_secret is its password", "client_id", { client_secret = "x" })
    wrong("is at most 3600", "lifetime", { lifetime = 3601 })
  end,

  ["oauth_client_credentials signs who it is, where it has a key"] = function()
    local base = { token_url = "https://login.test/token", client_id = "c", private_key = keys.p256, algorithm = "ES256",
                   key_id = "k", x5t = "thumb" }
    local seen, state = refreshed("oauth_client_credentials", base)
    is(seen.form.grant_type, "client_credentials")
    is(seen.form.client_assertion_type, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    is(seen.form.client_id, "c")
    is(seen.form.client_secret, nil)
    is(seen.basic, nil)
    local h, c = opened(seen.form.client_assertion, "ES256", keys.p256)
    is(h.kid .. h["x5t#S256"], "kthumb")
    is(c.iss .. c.sub .. c.aud, "cchttps://login.test/token")
    is(c.exp - c.iat, 180)
    is(#c.jti, 32)
    is(state.expires_at, 99)
    is(refused("oauth_client_credentials", base), nil)
    says("and private_key are both given", "oauth_client_credentials", with(base, { client_secret = "s" }), "client_secret")
    says("is missing, and so is private_key", "oauth_client_credentials",
      { token_url = base.token_url, client_id = "c" }, "client_secret")
    says("is no EC key on P-256", "oauth_client_credentials", with(base, { private_key = keys.rsa }), "private_key")
    says("is a field of its own", "oauth_client_credentials", with(base, { params = { client_assertion = "x" } }), nil)
  end,

  ["jwt names the field at fault"] = function()
    local base = { private_key = keys.p256 }
    local function wrong(part, field, more) says(part, "jwt", with(base, more), field) end
    is(refused("jwt", base), nil)
    is(refused("jwt", { secret = "s" }), nil)
    is(refused("jwt", { private_key = keys.p384 }), nil)
    is(refused("jwt", { private_key = keys.rsa, algorithm = "RS512" }), nil)
    wrong("both given", "private_key", { secret = "s" })
    says("is missing, and so is secret", "jwt", {}, "private_key")
    wrong("HS256 signs with secret", "algorithm", { algorithm = "HS256" })
    says("RS256 signs with private_key", "jwt", { secret = "s", algorithm = "RS256" }, "algorithm")
    wrong("is no RSA key", "private_key", { algorithm = "RS256" })
    wrong("certificate", "private_key", { private_key = keys.certificate })
    wrong("passphrase", "private_key", { private_key = keys.encrypted, algorithm = "ES256" })
    wrong("has 'exp', which lifetime sets", "claims", { claims = { exp = "1" } })
    wrong("has 'alg', which algorithm sets", "jose", { jose = { alg = "none" } })
    wrong("with ${user}", "claims", { claims = { sub = "${user}" } })
    wrong("with ${key_id}", "claims", { claims = { sub = "${key_id}" } })
    wrong("json: is not JSON", "claims", { claims = { sub = "json:[" } })
    wrong("with ${x}", "claims", { claims = { sub = 'json:{"a":["${x}"]}' } })
    wrong("header's name", "header", { header = "a b" })
    says("with ${fingerprint}", "jwt", { secret = "s", claims = { iss = "${fingerprint}" } }, "claims")
  end,

  ["github_app asks for a token of those repositories and permissions"] = function()
    local asked, state = installed({ repositories = { "site", "docs" }, permissions = { contents = "write" } },
      { [token_at(42)] = minted "2016-07-11T22:14:10Z" })
    is(#asked, 1)
    is(asked[1].body, '{"permissions":{"contents":"write"},"repositories":["site","docs"]}')
    is(asked[1].headers.accept, "application/vnd.github+json")
    local h, c = opened(asked[1].headers.authorization:match "^Bearer (.+)$", "RS256", keys.rsa)
    is(h.alg, "RS256")
    is(c.iss, 12345)
    is(c.exp - c.iat, 600)
    is(math.abs(c.iat + 60 - require("time").wall()) < 3, true)
    is(state.expires_at, 1468275250)
    asked = installed({}, { [token_at(42)] = minted "2016-07-11T22:14:10Z" })
    is(asked[1].body, "{}")
  end,
  ["github_app takes a client id, and an Enterprise host"] = function()
    local base = "https://ghe.test/api/v3"
    local asked, state = installed({ app_id = "Iv23liAbC", api_url = base .. "/" }, { [token_at(42, base)] = minted "2000-02-29T00:00:00Z" })
    is(select(2, opened(asked[1].headers.authorization:match "^Bearer (.+)$", "RS256", keys.rsa)).iss, "Iv23liAbC")
    is(state.expires_at, 951782400)
  end,
  ["github_app looks an account's installation up: an organization, a user, a repository"] = function()
    local function found(account, at)
      local asked, state = installed({ installation_id = false, account = account },
        { [at] = { status = 200, values = { id = 7 } }, [token_at(7)] = minted "2016-07-11T22:14:10Z" })
      assert(state, asked[#asked].at)
      return #asked
    end
    is(found("acme", "GET " .. API .. "/orgs/acme/installation"), 2)
    is(found("joe", "GET " .. API .. "/users/joe/installation"), 3)
    is(found("acme/site", "GET " .. API .. "/repos/acme/site/installation"), 2)
  end,
  ["github_app says why GitHub refuses"] = function()
    local function code(answer) return (select(3, installed({}, { [token_at(42)] = answer }))) end
    is(code { status = 404 }, "no_installation")
    is(code { status = 401 }, "app_refused")
    is(code { status = 422 }, "not_granted")
    is(code { status = 403 }, "refused")
    is(code { status = 403, retry_after = 60 }, "unavailable")
    is(code { status = 429 }, "unavailable")
    is(code { status = 502 }, "unavailable")
    is(code { status = 302 }, "refused")
    is(code { status = 201 }, "no_access_token")
    is(code { status = 201, malformed = true }, "malformed")
    is(select(3, installed({ installation_id = false, account = "x" }, {})), "no_installation")
    is(select(3, installed({ installation_id = false, account = "x" },
      { ["GET " .. API .. "/orgs/x/installation"] = { status = 401 } })), "app_refused")
    is(select(3, installed({ private_key = keys.broken }, {})), "bad_key")
  end,
  ["github_app: an expiry that cannot be read is an hour"] = function()
    local now = require("time").wall()
    for _, text in ipairs { "tomorrow", "2016-07-11 22:14:10", "2016-07-11T22:14:10+2:00" } do
      local _, state = installed({}, { [token_at(42)] = minted(text) })
      assert(math.abs(state.expires_at - now - 3600) < 3, text)
    end
    local _, state = installed({}, { [token_at(42)] = minted "2099-07-11T22:14:10+02:00" })
    assert(state.expires_at == require("dates").seconds("2099", "07", "11", "20", "14", "10"), state.expires_at)
  end,
  ["github_app names the field at fault"] = function()
    local function wrong(part, field, more) says(part, "github_app", with(app, more), field) end
    is(refused("github_app", app), nil)
    wrong("both given", "installation_id", { account = "acme" })
    says("is missing, and so is account", "github_app", { app_id = "1", private_key = keys.rsa }, "installation_id")
    wrong("\\n spelled out", "private_key", { private_key = (keys.rsa:gsub("\n", "\\n")) })
    wrong("is no RSA key", "private_key", { private_key = keys.p256 })
    wrong("number, or a client id", "app_id", { app_id = "my app" })
    wrong("without their owner", "repositories", { repositories = { "acme/site" } })
    wrong("read, write or admin", "permissions", { permissions = { contents = "all" } })
    wrong("has no 'a b'", "permissions", { permissions = { ["a b"] = "read" } })
    says("OWNER/REPO", "github_app", { app_id = "1", account = "../app", private_key = keys.rsa }, "account")
  end,
  ["github_app: its API's root is no token endpoint, and its net goes nowhere else"] = function()
    local pol = type_of "github_app"
    local cred = policy.view(pol, app)
    is(policy.urls(pol, cred)[1][1].base, true)
    is(policy.allows_url(pol, cred, API .. "/app/installations/1/access_tokens"), true)
    is(policy.allows_url(pol, cred, "https://github.com/login/oauth/access_token"), nil)
  end,
  ["a document's URL is one of the credential's"] = function()
    local pol = type_of "gcp_access_token"
    local cred = policy.view(pol, { key = account })
    is(policy.urls(pol, cred)[1][2].host, "oauth2.googleapis.com")
    is(policy.allows_url(pol, cred, account.token_uri), true)
    is(policy.allows_url(pol, cred, "https://oauth3.googleapis.com/token"), nil)
  end,
}

for _, name in ipairs { "gcp_access_token", "gcp_iap", "oauth_jwt_bearer", "jwt", "github_app" } do
  cases[name .. " passes its own examples"] = function()
    local pol, count = examples.test(name, sandbox.default_source(name))
    assert(pol, count)
    assert(count > 0, "no examples")
  end
end

return cases
