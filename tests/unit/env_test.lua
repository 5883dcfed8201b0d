local env = require "env"

local function build(more)
  local with = { proxy = "127.0.0.1:7080", agent = "claude", token = "sp_agt_x", ca = "/p/ca.pem",
    bundle = "/p/bundle.pem" }
  for k, v in pairs(more or {}) do with[k] = v end
  local map, list = {}, env.build(with)
  for _, v in ipairs(list) do
    assert(not map[v[1]], v[1] .. " is set twice")
    map[v[1]] = v[2]
  end
  return map, list
end

local function is(got, want) assert(got == want, ("got %s, wanted %s"):format(tostring(got), tostring(want))) end

return {
  ["the proxy is set in both cases"] = function()
    local map = build()
    for _, name in ipairs { "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy" } do
      is(map[name], "http://claude:sp_agt_x@127.0.0.1:7080")
    end
  end,

  ["every variable that DESIGN names is set, to the bundle or to the CA"] = function()
    local map = build()
    for _, name in ipairs { "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
      "PIP_CERT", "CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE", "npm_config_cafile",
      "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "DENO_CERT", "YARN_HTTPS_CA_FILE_PATH",
      "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" } do
      is(map[name], "/p/bundle.pem")
    end
    is(map.NODE_EXTRA_CA_CERTS, "/p/ca.pem")
    is(map.NODE_USE_ENV_PROXY, "1")
    is(map.YARN_HTTPS_PROXY, map.HTTPS_PROXY)
    is(map.YARN_HTTP_PROXY, map.HTTPS_PROXY)
  end,

  ["what only some programs bear is set for those who need it: AWS's bundle"] = function()
    is(build().AWS_CA_BUNDLE, nil)
    is(build { aws = true }.AWS_CA_BUNDLE, "/p/bundle.pem")
  end,

  ["of two variables that one client mistakes for each other, the first is set"] = function()
    is(env.rival("GOOGLE_API_KEY", { GEMINI_API_KEY = "g" }), "GEMINI_API_KEY")
    is(env.rival("GEMINI_API_KEY", { GOOGLE_API_KEY = "g" }), "GOOGLE_API_KEY")
    is(env.rival("GOOGLE_API_KEY", { GOOGLE_API_KEY = "g", GH_TOKEN = "h" }), nil)
    is(env.rival("GH_TOKEN", { GEMINI_API_KEY = "g" }), nil)
  end,

  ["skill files written for Agent Vault find the proxy, the token and the bundle under their names; without a token none is named"] = function()
    local map = build { vault = "work" }
    is(map.AGENT_VAULT_ADDR, "http://127.0.0.1:7080")
    is(map.AGENT_VAULT_TOKEN, "sp_agt_x")
    is(map.AGENT_VAULT_VAULT, "work")
    is(build { proxy = "https://box.lan:7443" }.AGENT_VAULT_ADDR, "https://box.lan:7443")
    is(build().AGENT_VAULT_VAULT, nil)
    local list = env.build { proxy = "127.0.0.1:7080", agent = "claude", ca = "/p/ca.pem", bundle = "/p/bundle.pem" }
    for _, v in ipairs(list) do assert(v[1] ~= "AGENT_VAULT_TOKEN") end
  end,

  ["NO_PROXY keeps what is there and adds the machine itself once"] = function()
    local map = build { no_proxy = "corp.example, 127.0.0.1 ,.svc" }
    is(map.NO_PROXY, "corp.example,127.0.0.1,.svc,localhost,::1")
    is(map.no_proxy, map.NO_PROXY)
    is(build().NO_PROXY, "localhost,127.0.0.1,::1")
  end,

  ["NO_PROXY=* is left out, for it would send everything past the proxy"] = function()
    local text, star = env.no_proxy("*")
    is(text, "localhost,127.0.0.1,::1")
    is(star, true)
  end,

  ["placeholders follow in the order given"] = function()
    local _, list = build { placeholders = { { "GH_TOKEN", "ghp_1" }, { "A", "b" } } }
    is(list[#list - 1][1], "GH_TOKEN")
    is(list[#list][2], "b")
  end,

  ["what the agent is called cannot break the proxy's URL"] = function()
    is(build { agent = "a@b:c/d" }.HTTPS_PROXY, "http://a%40b%3Ac%2Fd:sp_agt_x@127.0.0.1:7080")
  end,

  ["a shell reads each value back as it is"] = function()
    is(env.quote("plain-1.2/x"), "plain-1.2/x")
    is(env.quote("a b"), "'a b'")
    is(env.quote("it's $HOME `x`"), "'it'\\''s $HOME `x`'")
    is(env.quote(""), "''")
    is(env.quote("=ls"), "'=ls'")
    is(env.text({ { "A", "x y" }, { "B", "z" } }, "sh"), "export A='x y'\nexport B=z\n")
  end,

  ["each format has its own quotes"] = function()
    local list = { { "A", [[a'b\c"d$e`f]] }, { "B", "plain" }, { "C", "" }, { "D", "two\nlines" } }
    is(env.text(list, "fish"), [[
set -gx A 'a\'b\\c"d$e`f'
set -gx B plain
set -gx C ''
set -gx D 'two
lines'
]])
    is(env.text(list, "systemd"), [[
A="a'b\\c\"d\$e\`f"
B="plain"
C=""
D="two
lines"
]])
    is(env.text({ list[1], list[2], list[3] }, "docker"), "A=" .. list[1][2] .. "\nB=plain\nC=\n")
  end,

  ["a value that a format cannot hold is named"] = function()
    local function unfit(value, format) return env.unfit({ { "OK", "ok" }, { "BAD", value } }, format) end
    for _, value in ipairs { "a\nb", "a\r", "\r", "a\rb", "\xff", ("x"):rep(65536) } do
      is(unfit(value, "docker"), "BAD")
      is(unfit(value, "sh"), nil)
    end
    for _, value in ipairs { "a\rb", "\27[0m", "\127", "\xff", "\u{FFFE}", "\u{FDD0}", "\u{1FFFF}" } do is(unfit(value, "systemd"), "BAD") end
    for _, value in ipairs { "a\nb", "a\tb", "\u{FFFD}", "", "#x", " x " } do is(unfit(value, "systemd"), nil) end
    is(unfit("\xff", "json"), "BAD")
    for _, value in ipairs { "#x", " x ", "a\tb", "'\"$`\\", "" } do is(unfit(value, "docker"), nil) end
  end,

  ["a listener on every address is reached on this machine"] = function()
    is(env.reach("0.0.0.0:7080"), "127.0.0.1:7080")
    is(env.reach("[::]:7080"), "[::1]:7080")
    is(env.reach("10.0.0.5:7080"), "10.0.0.5:7080")
  end,
}
