-- policies/presets.lua: each row fits its type, and what it says is used.
local examples = require "cli.policy_examples"
local policies = require "policy_store"
local policy, sandbox, presets, records = require "policy", require "sandbox", require "presets", require "records"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function put(text)
  return examples.test("presets", ("return { kind = 'presets', api = 1, name = 'presets', title = 'x', %s }"):format(text))
end

local row = "name = 'a', title = 'A', type = 'bearer', hosts = { 'a.test' }, make = 'there'"

local function refused(text, part)
  local pol, why = put(text)
  assert(not pol, "was accepted")
  assert(why:find(part, 1, true), why)
end

local function type_of(preset)
  local source = assert(sandbox.default_source(preset.type), preset.name .. ": no type " .. preset.type)
  return assert(policy.compile(preset.type, source))
end

local cases = {
  ["presets passes its own examples, and has at least forty rows"] = function()
    local pol, count = examples.test("presets", sandbox.default_source "presets")
    assert(pol, count)
    assert(count > 0)
    assert(#pol.presets >= 40, #pol.presets)
  end,
  ["no row that is shipped seals an identity token, which clients verify, and none opens at a host that its API may choose"] = function()
    local rows, names = 0, require "policy_names"
    local function look(of, list)
      for _, row in ipairs(list or {}) do
        rows = rows + 1
        for _, m in ipairs(row.members) do
          local name = m[2]:lower():gsub("[^%a]", "")
          assert(not name:find("idtoken", 1, true) and not name:find("identity", 1, true), of .. ": " .. m[2])
        end
        for _, host in ipairs(row.hosts) do assert(not host:find("^%*%.[^.]+$") and not host:find("amazonaws", 1, true), of .. ": " .. host) end
      end
    end
    for _, name in ipairs(names) do
      local pol = policy.compile(name, assert(sandbox.default_source(name)))
      if pol and pol.kind == "type" then look(name, pol.seal) end
    end
    for _, preset in ipairs(examples.test("presets", sandbox.default_source "presets").presets) do look(preset.name, preset.seal) end
    assert(rows > 8, rows)
  end,
  ["a preset that could not be used is refused by name, with the reason"] = function()
    assert(put(("presets = { { %s } }"):format(row)))
    refused(("presets = { { %s }, { %s } }"):format(row, row), "occurs twice")
    refused("presets = { { name = 'A b' } }", "no name")
    refused("presets = { { name = 'a', type = 'bearer', hosts = { 'a.test' }, make = 'x' } }", "title")
    refused(("presets = { { %s, hots = {} } }"):format(row), "no key 'hots'")
    refused(("presets = { { %s, mint = { { path = '/a' } } } }"):format(row), "preset 'a': mint row 1")
    refused(("presets = { { %s, seal = { { path = '/a' } } } }"):format(row), "preset 'a': seal row 1 does not say which members")
    refused(("presets = { { %s,\n seal = { { path = '/a', members = { 't' },\n shape = 'x' } } } }"):format(row), "presets.lua:3: preset 'a': seal row 1 has a shape")
    refused(("presets = { { %s, env = { 'PATH' }, placeholder = '{32}' } }"):format(row), "PATH")
    refused(("presets = { { %s, env = { 'A_KEY' } } }"):format(row), "shape")
    refused(("presets = { { %s, placeholder = '{3}' } }"):format(row), "random")
    refused(("presets = { { %s, headers = { Host = 'x' } } }"):format(row), "Host")
    refused(("presets = { { %s, paths = { 'v1' } } }"):format(row), "path")
    refused(("presets = { { %s, carriers = { form = { 'x' } } } }"):format(row), "carriers")
    refused(("presets = { { %s, carriers = { cookies = { 'x' } } } }"):format(row), "no key 'cookies'")
    refused(("presets = { { %s, within = { '/a' } } }"):format(row), "does not end in '/'")
    refused(("presets = { { %s, test = 'x' } }"):format(row), "URL")
    refused("presets = { { name = 'a', title = 'A', type = 'bearer', hosts = { '*.com' }, make = 'x' } }", "*.com")
    refused(("presets = { { %s } }, examples = { { preset = 'a', want = { type = 'basic' } } }"):format(row), "the example wants")
    refused(("presets = { { %s } }, examples = { { preset = 'b', want = {} } }"):format(row), "no preset 'b'")
    refused("shapes = { A = 'x' }", "A:")
  end,
  ["a preset whose type does not exist, or lacks what it names, is refused with its line"] = function()
    local function at(line, text, part)
      local pol, why = put("\npresets = { {\n  name = 'o', title = 'O', type = 'basic', hosts = { 'o.test' }, make = 'x' }, {\n" .. text
        .. "\n} }")
      assert(not pol, "was accepted")
      assert(why:find(("policies/presets.lua:%d: preset 'a': "):format(line), 1, true) and why:find(part, 1, true), why)
    end
    local typed = row:gsub("'bearer'", "'%%s'")
    at(4, typed:format "barer", "there is no type 'barer'")
    at(4, typed:format "match", "there is no type 'match'")
    at(5, row .. ",\nfields = { prefx = 'x' }", "bearer has no field 'prefx'")
    at(5, row .. ",\nfields = { token = 'x' }", "'token' is a secret of bearer")
    at(6, typed:format "oauth_client_credentials" .. ",\nfields = { client_id = 'x',\ntoken_url = 'ftp://{host}/x' }", "its field token_url")
    at(5, row .. ",\nask = { password = 'yours' }", "asks for 'password'")
    at(5, row .. ",\nask = { ['token.x'] = 'yours' }", "asks for 'token.x'")
    at(5, row .. ",\nrows = { { field = 'key', place = { 'path=/{}' } } }", "'key' is no secret of bearer")
    at(5, row .. ",\nrows = { { field = 'token', place = { 'paht=/{}' } } }", "did you mean path=/bot{}/**")
    at(5, row .. ",\nrows = { { field = 'token', place = { 'path' } } }", "Write path=/bot{}/**")
    at(5, row .. ",\nrows = { 'x' }", "rows: ")
    assert(put(("presets = { { %s, ask = { token = 'x' }, rows = { { field = 'token', place = { 'path=/{}' }, placeholder = '__TOKEN__' } } } }"):format(row)))
  end,
  ["each kind's prefix decides the shape, and nothing else of the key does"] = function()
    local core, pol = require "secret.core", assert(presets.load())
    assert(#pol.kinds > 150, #pol.kinds)
    for _, kind in ipairs(pol.kinds) do
      local prefix, shape = kind[1], kind[2]
      assert(shape:sub(1, #prefix) == prefix, shape)
      for _, rest in ipairs { "", "x", ("Z"):rep(7), ("q9"):rep(200) } do
        local longer = false     -- "sk-" .. "ant-…" is of another kind; these rests begin none
        for _, other in ipairs(pol.kinds) do longer = longer or #other[1] > #prefix and (prefix .. rest):sub(1, #other[1]) == other[1] end
        if not longer then
          is(presets.shape_for(nil, nil, { core.of(prefix .. rest) }), shape)
          is(presets.shape_for("ODD_VARIABLE", { "odd.test" }, { prefix .. rest }), shape)
        end
      end
    end
  end,
  ["a key of no known kind leaves the shape as it was, and one of the preset's own prefix too"] = function()
    local core = require "secret.core"
    local function shape(text, ...) return presets.shape_for("GH_TOKEN", { "api.github.com" }, { core.of(text), ... }) end
    for _, text in ipairs { "", "g", "gh", "ghp", "GHP_x", "xghp_x", " ghp_x", "AKI", "0123456789abcdef", "eyj", "github-pat" } do is(shape(text), "ghp_{36}") end
    is(shape("ghp_x"), "ghp_{36}")
    is(shape("none", core.of("github_pat_11")), "github_pat_{22}_{59}")   -- the first of a known kind
    is(presets.shape_for(nil, nil, { core.of("sk-abc") }, "sk-{32:hex}"), "sk-{32:hex}")
    is(presets.shape_for(nil, nil, { core.of("sk-proj-abc") }, "sk-{32:hex}"), "sk-proj-{74:url}T3BlbkFJ{74:url}")
    is(presets.shape_for(nil, nil, {}, "a{32}"), "a{32}")
    is(presets.shape_for(nil, nil, nil), records.SHAPE_DEFAULT)
  end,
  ["placeholders are as long as the keys of their kind, and of their letters"] = function()
    -- Providers' documentation and their patterns for secret scanning.
    local published = {
      ghp_ = 40, gho_ = 40, ghu_ = 40, ghs_ = 40, ghr_ = 80, github_pat_ = 93, ["glpat-"] = 26, ["glrt-"] = 25, npm_ = 40, rubygems_ = 57,
      dckr_pat_ = 36, AKIA = 20, ASIA = 20, AIza = 39, ["GOCSPX-"] = 35, ["SG."] = 69, ["xkeysib-"] = 89, ["key-"] = 36, hf_ = 37, ntn_ = 50,
      lin_api_ = 48, figd_ = 45, ["PMAK-"] = 64, glsa_ = 46, ["NRAK-"] = 32, ["sk-ant-api03-"] = 108, dop_v1_ = 71, dapi = 36, ["pul-"] = 44,
      sbp_ = 44, shpat_ = 38, EZAK = 58, LTAI = 24, ["dp.pt."] = 49, ["HRKU-"] = 65, tfp_ = 63, ["dt0c01."] = 96, sk_live_ = 32, rk_test_ = 32,
      sgp_ = 61, duffel_live_ = 55, pscale_tkn_ = 54, fo1_ = 47, ["sk-proj-"] = 164, api_org_ = 42,
    }
    local shapes = {}
    for _, kind in ipairs(assert(presets.load()).kinds) do shapes[kind[1]] = kind[2] end
    for prefix, length in pairs(published) do
      local shape = assert(shapes[prefix], prefix)
      local text = shape:gsub("{(%d+):?%l*}", function(n) return ("x"):rep(tonumber(n)) end)
      is(prefix .. " " .. #text, prefix .. " " .. length)
    end
    is(shapes.AKIA, "AKIA{16:upper}")          -- base32: AWS's account ids are read out of them
    is(shapes.hf_, "hf_{34:alpha}")
    is(shapes.ntn_, "ntn_{11:digit}{35}")
  end,
  ["kinds are shapes with a prefix"] = function()
    for _, bad in ipairs { "'x'", "'ab{32}'", "'{32}'", "{ 'abc' }", "{ 'abc', 'abd{32}' }", "{ 'ab', 'ab{32}' }", "3", "{}" } do
      refused(("kinds = { %s }"):format(bad), "kinds: item 1")
    end
    assert(put("kinds = { 'abc_{32}', { 'abd', 'abd_x{32}' } }"))
  end,
  ["no policy may ask how a secret begins"] = function()
    local core = require "secret.core"
    assert(core.begins(core.of("abc"), "ab") and not core.begins(core.of("abc"), "abcd") and core.begins("abc", ""))
    is(require("secret").begins, nil)
    is(pcall(function() return core.of("abc"):begins("ab") end), false)
  end,
  ["only the policy of that name is of that kind"] = function()
    local pol, why = policy.compile("others", "return { kind = 'presets', api = 1, name = 'others', title = 'x' }")
    assert(not pol and why:find("named presets", 1, true), why)
  end,
  ["a gap is asked for, and what has none is not"] = function()
    is(presets.gap(presets.get "atlassian"), "YOUR-SITE.atlassian.net")
    is(presets.gap(presets.get "github"), nil)
    is(presets.fill({}, "https://{host}/x/{username}", "h.test", { username = "me" }), "https://h.test/x/me")
    is(presets.fill({}, "https://{host}/x/{username}", "h.test", {}), nil)
    is(presets.fill(presets.get "telegram", "https://{host}/bot{value}/getMe", "h.test", {}), "https://h.test/bot{value}/getMe")
  end,
  ["a batch is looked into for the calls that it may hold"] = function()
    local function find(rows, text, body)
      local host, path = text:match("^([^/]+)(/.*)$")
      return require("mint").find(rows, { method = "POST", host = host, readings = function() return { path } end,
        body = function() return body or "" end }) ~= nil
    end
    local graph, google = presets.get "microsoft-graph".mint, policies.load "gcp_access_token".mint
    is(find(graph, "graph.microsoft.com/v1.0/$batch", [[{"requests":[{"url":"/applications/1/addpassword"}]}]]), true)
    is(find(graph, "graph.microsoft.com/v1.0/$batch", [[{"requests":[{"url":"/me"}]}]]), false)
    is(find(google, "iamcredentials.googleapis.com/batch", "POST /v1/projects/-/serviceAccounts/a:generateAccessToken HTTP/1.1"), true)
    is(find(google, "iam.googleapis.com/batch/v1", "POST /v1/projects/p/service%41ccounts/a/keys HTTP/1.1"), true)
    is(find(google, "content-apikeys.googleapis.com/batch/v2", "GET /v2/projects/p/locations/global/keys/1/keyString HTTP/1.1"), true)
    is(find(google, "storage.googleapis.com/batch/storage/v1", "POST /storage/v1/projects/p/hmacKeys HTTP/1.1"), true)
    is(find(google, "storage.googleapis.com/batch/storage/v1", "PATCH /storage/v1/b/x/o/y HTTP/1.1"), false)
  end,
  ["a call counts under the other names that the API has for it"] = function()
    local function met(rows, method, path)
      return require("mint").find(rows, { method = method, host = "api.test", readings = function() return { path } end,
        body = function() return "" end }) ~= nil
    end
    for _, rows in ipairs { presets.get "github".mint, presets.get "github-oauth".mint, policies.load "github_app".mint } do
      for _, below in ipairs { "", "/api/v3" } do
        for _, path in ipairs { "/repos/o/r/keys", "/repositories/17/keys", "/repositories/17/actions/runners/registration-token",
          "/organizations/9/actions/runners/generate-jitconfig", "/orgs/o/actions/runners/registration-token" } do
          is(met(rows, "POST", below .. path), true)
          is(met(rows, "GET", below .. path), false)
        end
      end
    end
    local rows = presets.get "gitlab".mint
    is(met(rows, "POST", "/api/v4/projects/1/service_accounts/2/personal_access_tokens"), true)
    is(met(rows, "GET", "/api/v4/projects/1/packages/conan/v2/users/authenticate"), true)
    is(met(rows, "POST", "/api/v4/ai/duo_workflows/direct_access"), true)
    is(met(rows, "GET", "/-/cable"), true)
  end,
  ["a server of one's own may live below a path: its calls count there too"] = function()
    local function met(name, path)
      return require("mint").find(presets.get(name).mint, { method = "POST", host = "tools.test", readings = function() return { path } end,
        body = function() return "" end }) ~= nil
    end
    for name, path in pairs { ["jira-server"] = "/rest/pat/latest/tokens", grafana = "/api/serviceaccounts/1/tokens",
      gitlab = "/api/v4/user/personal_access_tokens", elastic = "/_security/api_key", ["gitlab-git"] = "/jwt/auth" } do
      assert(met(name, path), name)
      assert(met(name, "/tools/here" .. path), name)
      assert(not met(name, "/tools" .. path .. "x"), name)
    end
  end,
  ["each variable's placeholder has the shape of its preset"] = function()
    is(presets.shape_for("GITHUB_TOKEN"), "ghp_{36}")
    is(presets.shape_for("NPM_TOKEN"), "npm_{36}")
    is(presets.shape_for(nil, { "x.test", "api.openai.com" }), "sk-proj-{74:url}T3BlbkFJ{74:url}")
    is(presets.shape_for("UNKNOWN", { "x.test" }), "sp_ph_{32}")
  end,
}

for _, preset in ipairs(assert(presets.load()).presets) do
  cases[("preset %s fits its type %s"):format(preset.name, preset.type)] = function()
    local pol = type_of(preset)
    for name, value in pairs(preset.fields) do
      local f = assert(pol.by_name[name], "no field " .. name)
      assert(not records.is_secret(f), name .. " is a secret")
      local want = (f.type == "list" or f.type == "map") and "table" or type(f.type == "integer" and 1 or f.type == "boolean" or "")
      is(type(value), want)
      if f.values then assert((" " .. table.concat(f.values, " ") .. " "):find(" " .. value .. " ", 1, true), name) end
    end
    for name in pairs(preset.ask) do assert(pol.by_name[name:match("^[^.]+")], "asks for no field: " .. name) end
    for _, f in ipairs(pol.fields) do
      if f.required and not records.is_secret(f) then
        assert(preset.fields[f.name] or preset.ask[f.name], "says nothing of " .. f.name)
      end
    end
    if pol.sends_secret then is(require("cli.suffixes").first(preset.hosts), nil) end
    -- What it reads for `credential test` is not what it would refuse the agent.
    local url = preset.test and require("http").parse_url((preset.test:gsub("{[%l_]+}", "x")))
    local what = url and require("mint").find(preset.mint, {
      method = "GET", host = url.host, query = url.query, readings = function() return { url.path } end,
    })
    is(what, nil)
  end
end

return cases
