-- The credential types: their own examples, and what the examples cannot say.
local examples = require "cli.policy_examples"
local carriers, policy, sandbox, request = require "carriers", require "policy", require "sandbox", require "request"
local secret = require "secret.core"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function type_of(name) return assert(policy.compile(name, sandbox.default_source(name))) end

-- What goes out when this type is applied to that request, as the runtime does it.
local function applied(name, values, req)
  local pol = type_of(name)
  local cred = policy.view(pol, values, values.state)
  local r = require("example").request { method = "GET", url = req.url or "https://api.test/", headers = req.headers or {} }
  local spec = assert(policy.strip(pol, cred))
  local _, headers = carriers.names { carriers.headers, spec.headers or {} }
  r:strip { headers = headers, query = spec.query }
  assert(policy.apply(pol, r, cred))
  headers = {}
  for k, v in pairs(r:dump().headers) do headers[k:lower()] = v end
  return headers
end

local function check(name, values, hosts) return policy.check_credential(type_of(name), values, hosts) end

-- refresh with a net that notes its parameters
local function refreshed(values)
  local pol = type_of "oauth_client_credentials"
  local seen
  local net = { token = function(url, spec)
    seen = spec
    seen.url = url
    return { secrets = { access_token = secret.of "t1", refresh_token = secret.of "r1" }, expires_at = 99 }
  end }
  local with = { token_url = "https://login.test/token", client_id = "id", client_secret = secret.of "s" }
  for k, v in pairs(values or {}) do with[k] = v end
  local state, code = policy.refresh(pol, policy.view(pol, with), net, 0)
  return state, seen, code
end

local function param(spec, name)
  local all = {}
  for _, p in ipairs(spec.form) do
    if p[1] == name and p[2] ~= nil then all[#all + 1] = p[2] end
  end
  return all[1], #all
end

local cases = {
  ["bearer replaces what the agent sent"] = function()
    is(applied("bearer", { token = secret.of "t1" }, { headers = { Authorization = "Bearer mine" } }).authorization, "Bearer t1")
  end,
  ["bearer wants a token, and a secret one"] = function()
    is(check("bearer", { token = secret.of "t" }), true)
    is(select(2, check("bearer", {})), "token")
    is(select(2, check("bearer", { token = "plain" })), "token")
  end,
  ["a header that the proxy writes itself is refused for every type that sets one, and so is what is no name"] = function()
    local function refused(name, values, field, part)
      local ok, at, why = check(name, values)
      is(ok, nil)
      is(at, field)
      assert(why:find(part, 1, true), why)
    end
    local s = secret.of "k"
    local oauth = { client_id = "x", token_url = "https://a.test/t", authorization_url = "https://a.test/a" }
    for _, bad in ipairs { "Host", "content-length", "Connection", "X-Sallyport-Key", "Proxy-Connection" } do
      refused("api_key", { key = s, header = bad }, "header", "is a header that the proxy writes itself")
      refused("jwt", { secret = s, header = bad }, "header", "the proxy writes itself")
      oauth.header = bad
      refused("oauth_authorization_code", oauth, "header", "the proxy writes itself")
      refused("hmac", { key = s, string = "{method}", set = { ["X-Sig"] = "{signature}", [bad] = "{method}" } }, "set", ("has '%s', which"):format(bad))
    end
    refused("api_key", { key = s, header = "x y" }, "header", "no header's name")
    refused("api_key", { key = s, header = "" }, "header", "no header's name")
    refused("hmac", { key = s, string = "{method}", set = { ["X Sig"] = "{signature}" } }, "set", "no header's name")
    is(check("api_key", { key = s, header = "Proxy-Authorization" }), true)
    is(check("api_key", { key = s }), true)
  end,
  ["a host that the fields do not fit is told when it is saved"] = function()
    local keys = { access_key_id = "AKIA", secret_access_key = secret.of "k" }
    local function aws(hosts, more)
      for name, v in pairs(more or {}) do keys[name] = v end
      local ok, field, why = check("aws_sigv4", keys, hosts)
      return ok or field, why
    end
    is(aws(nil), true)
    is(aws { "*.amazonaws.com", "s3.eu-west-1.amazonaws.com", "x.on.aws", "*.amazonaws.com.cn", "${WHERE}.test" }, true)
    local field, why = aws { "s3.amazonaws.com", "minio.test" }
    is(field, "region")
    assert(why:find("minio.test is not one of Amazon's hosts", 1, true), why)
    is(aws({ "minio.test" }, { region = "auto" }), "service")
    is(aws({ "minio.test" }, { service = "s3" }), true)
    local app = { app_id = "1", installation_id = 1, private_key = secret.of(dofile("tests/unit/keys.lua").rsa) }
    is(check("github_app", app, type_of("github_app").hosts), true)
    is(check("github_app", app, { "github.com" }), true)            -- for git alone
    is(check("github_app", app, { "ghe.test" }), nil)
    app.api_url = "https://GHE.test:8443/api/v3"
    is(check("github_app", app, { "ghe.test" }), true)
    is(check("github_app", app, { "git.ghe.test" }), true)
    is(check("github_app", app, { "*.test" }), true)
    is(check("github_app", app, { "${TENANT}.test" }), true)
    local _, at, said = check("github_app", app, type_of("github_app").hosts)
    is(at .. " " .. said, "api_url is on ghe.test, which is not among its hosts: --host ghe.test")
  end,
  ["basic joins and encodes; an empty password is allowed"] = function()
    is(applied("basic", { username = "user", password = secret.of "" }, {}).authorization, "Basic dXNlcjo=")
    is(applied("basic", { password = secret.of "key" }, {}).authorization, "Basic OmtleQ==")
    is(check("basic", { username = "user", password = secret.of "" }), true)
  end,
  ["basic takes a key as the user name, and then no other"] = function()
    local key = { secret_username = secret.of "key", password = secret.of "" }
    is(applied("basic", key, {}).authorization, "Basic a2V5Og==")
    is(check("basic", key), true)
    key.username = "user"
    assert(not check("basic", key))
  end,
  ["basic takes UTF-8 as it is"] = function()
    is(applied("basic", { username = "test", password = secret.of "123\u{A3}" }, {}).authorization, "Basic dGVzdDoxMjPCow==")  -- RFC 7617 2.1
  end,
  ["basic refuses a colon in the user name"] = function()
    local ok = check("basic", { username = "a:b", password = secret.of "p" })
    assert(not ok)
  end,
  ["api_key sets the header that is named, and strips the agent's in every spelling"] = function()
    local out = applied("api_key", { key = secret.of "k1", header = "X-Api-Key" },
      { headers = { ["x-api-key"] = "mine", ["X_API_KEY"] = "mine too", authorization = "Bearer mine" } })
    is(out["x-api-key"], "k1")
    is(out["x_api_key"], nil)
    is(out.authorization, nil)
  end,
  ["api_key puts its prefix before the key"] = function()
    is(applied("api_key", { key = secret.of "k1", header = "authorization", prefix = "Token " }, {}).authorization, "Token k1")
  end,
  ["api_key refuses what is no header name"] = function()
    for _, header in ipairs { "", "a b", "a:b", "x\u{e9}" } do
      assert(not check("api_key", { key = secret.of "k", header = header }), header)
    end
    is(check("api_key", { key = secret.of "k", header = "DD-API-KEY" }), true)
  end,

  ["client credentials authenticate by Basic unless told otherwise"] = function()
    local state, spec = refreshed()
    is(spec.url, "https://login.test/token")
    is(spec.basic[1], "id")
    is(param(spec, "grant_type"), "client_credentials")
    is(param(spec, "client_id"), nil)
    is(param(spec, "client_secret"), nil)
    is(param(spec, "scope"), nil)
    is(spec.ttl, 300)
    is(spec.body, "form")
    is(state.expires_at, 99)
    assert(state.secrets.access_token)
  end,
  ["client credentials authenticate in the body"] = function()
    local _, spec = refreshed { auth_method = "post" }
    is(spec.basic, nil)
    is(param(spec, "client_id"), "id")
    assert(param(spec, "client_secret"))
  end,
  ["client credentials send scopes, audience, resources and parameters"] = function()
    local _, spec = refreshed {
      scopes = { "a", "b" }, audience = "https://api.test", resource = { "https://r1", "https://r2" },
      params = { tenant = "t", company = "c" }, token_body = "json", ttl = 60,
    }
    is(table.concat(param(spec, "scope"), " "), "a b")
    is(param(spec, "audience"), "https://api.test")
    is(select(2, param(spec, "resource")), 2)
    is(param(spec, "tenant"), "t")
    is(param(spec, "company"), "c")
    is(spec.body, "json")
    is(spec.ttl, 60)
  end,
  ["client credentials keep no refresh token (RFC 6749 4.4.3)"] = function()
    is(refreshed().secrets.refresh_token, nil)
  end,
  ["client credentials pass the server's code on"] = function()
    local pol = type_of "oauth_client_credentials"
    local view = policy.view(pol, { token_url = "https://login.test/t", client_id = "i", client_secret = secret.of "s" })
    local state, code = policy.refresh(pol, view, { token = function() return nil, "invalid_client", {} end }, 0)
    is(state, nil)
    is(code, "invalid_client")
  end,
  ["client credentials refuse parameters that are fields, and a lifetime of nothing"] = function()
    local function with(more)
      local v = { token_url = "https://login.test/t", client_id = "i", client_secret = secret.of "s" }
      for k, x in pairs(more) do v[k] = x end
      return (check("oauth_client_credentials", v))
    end
    is(with {}, true)
    is(with { params = { grant_type = "password" } }, nil)
    is(with { params = { client_secret = "x" } }, nil)
    is(with { ttl = 0 }, nil)
    is(with { auth_method = "none" }, nil)
    is(with { token_url = "http://login.test/t" }, nil)
  end,
  ["body_parameter wants a name that is the same in query, form and JSON"] = function()
    is(check("body_parameter", { name = "api_key", value = secret.of "v" }), true)
    for _, name in ipairs { "", "a b", "a&b", "a=b", "a;b", 'a"b', "a\\b", "a%b", "\u{e9}", ("a"):rep(129) } do
      is(select(2, check("body_parameter", { name = name, value = secret.of "v" })), "name")
    end
    is(select(2, check("body_parameter", { name = "a", value = secret.of "v", ["in"] = "header" })), "in")
  end,
}

for _, name in ipairs { "bearer", "basic", "api_key", "oauth_client_credentials", "body_parameter", "match" } do
  cases[name .. " passes its own examples"] = function()
    local pol, count = examples.test(name, sandbox.default_source(name))
    assert(pol, count)
    assert(count > 0, "no examples")
  end
end

return cases
