--- Comparisons of a secret with a text in a policy's source (lua/cli/comparisons.lua), as `policy put` refuses them.
local examples = require "cli.policy_examples"
local comparisons, policy = require "cli.comparisons", require "policy"

local fields = { key = "secret", map = { ["*"] = "secret" }, doc = { private_key = "secret" }, state = { access_token = "secret" } }

local function found(code) return comparisons.find("return { apply = function(req, cred)\n" .. code .. "\nend }", fields) end

return {
  ["a secret beside a text is found, however it is spelled"] = function()
    for _, code in ipairs {
      "if cred.key == 'hunter2' then end", 'if "hunter2" == cred.key then end', "return cred.key ~= [[x]]", "return cred['key'] == 'x'", 'return cred["key"] ~= "x"',
      "return cred.key == ''", "return cred.key == 5", "return cred.key < 'x'", "return 'x' >= cred.key", "return (cred.key) == ('x')", "return cred.key == 'a' .. 'b'",
      "return 'Bearer ' .. cred.key == 'Bearer x'", "return cred.key .. '' == 'x'", "return cred.map.a == 'x'", "return cred.map['a-b'] == 'x'", "return cred.map[name] == 'x'",
      "return cred.doc.private_key == 'x'", "return cred.state.access_token == 'x'", "return cred.key:hex() == 'x'", "return cred.key:hmac('sha256', 'x'):hex() == 'x'",
      "return secret.hex(cred.key) == 'x'", "return sign.hmac('sha256', cred.key, req.path) == 'x'", "return json { a = cred.key } == '{}'", "return secret.hex(sign.sha256(cred.key)) == 'x'",
      "local k = cred.key\nif k == 'x' then end", "local a, k = 1, cred.key return k == 'x'", "local k <const> = cred.key return 'x' == k", "local c = cred return c.key == 'x'",
      "local s = cred.state return s.access_token == 'x'", "local k k = cred.key return k == 'x'", "local k = 'x' .. cred.key return k == 'xy'", "local h = secret.hex(cred.key) return h == 'x'",
      "local WANT = 'x' return cred.key == WANT", "if req.path == '/' and cred.key == 'x' then end", "if not (cred.key == 'x') then end", "local ok = cred.key == 'x'",
      "return { a = cred.key == 'x' }", "for _ in pairs(t) do if cred.key == 'x' then return end end", "local function f() return cred.key == 'x' end", "return f(cred.key == 'x')",
      "local k if a then k = cred.key return k == 'x' end", "local k = cred.key if a then k = cred.key end return k == 'x'",
      "-- cred.key\nreturn cred . key\n==\n'x'", "return cred.key == 'a\\'b'",
    } do
      assert(found(code), code)
    end
    assert(found("\n\nlocal x = 1\nif cred.key == 'x' then end") == 5)
    assert(comparisons.find("return { apply = function(r, c) return c.key == 'x' end }", fields) == 1)
    assert(comparisons.find("return { refresh = function(c) return c.key == 'x' end }", fields) == 1)
    assert(comparisons.find("local function is(cred) return cred.key == 'x' end return {}", fields) == 1)
  end,

  ["what compares no secret with a text passes"] = function()
    for _, code in ipairs {
      "if cred.key == nil then end", "return cred.key ~= nil", "return cred.name == 'x'", "return cred.doc.client_email == 'x'", "return type(cred.key) == 'userdata'",
      "return secret.is(cred.key) == true", "local k = cred.key or '' return k == ''", "local k = cred.name return k == 'x'", "local k = cred.key do local k = 'x' if k == 'x' then end end",
      "local k = cred.name local t = { key = cred.key, k = cred.key } return k == 'x'", "local k = cred.key k = 'x' return k == 'x'", "-- cred.key == 'x'", "--[[ cred.key == 'x' ]]",
      "return 'cred.key == 1'", "return [[cred.key == 'x']]", "local function f(k) return k == 'x' end return f(cred.key)", "local key = cred.name return key == 'x'",
      "return req.key == 'x'", "return other.cred.key == 'x'", "return cred.key.x", "for _, k in ipairs(cred.list) do if k == 'x' then end end", "return cred.state.region == 'x'",
      "if cred.name then local k = cred.key end return k == 'x'", "return count(cred.key) == 1", "return cred.kind == 'a' and cred.key or 'b'", "req.headers:set('x', cred.key) if req.path == 'x' then end",
      "local k = req.headers:get('x', cred.key) return k == 'x'",
      "local k if cred.name == 'x' then k = '' else k = cred.key end if k == '' then end", "local k = '' if cred.name then k = cred.key end return k == ''",
      "local k = '' local function set() k = cred.key end return k == ''", "local k = cred.key if a then k = cred.key if b then k = '' end end return k == ''",
      "local k = '' for _, c in ipairs(t) do k = c.key or k end return k == ''",
    } do
      assert(not found(code), code)
    end
  end,

  ["any text of a policy is read without an error"] = function()
    local source = "local a <const>, b = [==[ x ]] ]==], 0x1p-4 goto e ::e:: return { f = function(...) return a // b == 1 or a..b ~= '\\'' and -1 < 2 end, [1] = { {}, [[}]] } }"
    for cut = 0, #source do comparisons.find(source:sub(1, cut), fields) end
    comparisons.find(("("):rep(150) .. "cred.key" .. (")"):rep(150) .. " == 'x'", fields)
  end,

  ["a policy with one is refused with file and line, and without the text"] = function()
    local source = [[
return { kind = "type", api = 1, name = "mine", title = "Mine",
  fields = { { name = "key", secret = true, required = true }, { name = "name", default = "x" } },
  apply = function(req, cred)
    if cred.name == "x" then return nil, "no" end
    if cred.key == "hunter2" then return nil, "no" end
  end }
]]
    local pol, why = examples.test("mine", source)
    assert(not pol and why:find("^policies/mine.lua:5: a secret is compared with a text"), why)
    assert(not why:find("hunter2"))
    assert(examples.test("mine", (source:gsub("cred.key ==", "cred.name =="))))
    assert(policy.compile("mine", source), "what serves goes on serving")
  end,
}
