--- Forms and queries: application/x-www-form-urlencoded (WHATWG URL 5) and RFC 3986 escapes.
local form = require "form"
local uri = require "uri"
local secret = require "secret"
local core = require "secret.core"

local function raises(fn, part)
  local ok, message = pcall(fn)
  assert(not ok, "nothing raised")
  assert(tostring(message):find(part, 1, true), message)
end

local function flat(pairs)
  local out = {}
  for i, p in ipairs(pairs) do out[i] = p[1] .. "=" .. p[2] end
  return table.concat(out, "|")
end

return {
  ["pairs are encoded in their order"] = function()
    assert(form.encode { { "b", "x y" }, { "a", "&=%+" }, { "b", "" } } == "b=x+y&a=%26%3D%25%2B&b=")
    assert(form { { "grant_type", "client_credentials" } } == "grant_type=client_credentials")
    assert(form {} == "" and uri.query {} == "")
  end,

  ["values are found as the most forgiving server may read them"] = function()
    local function values(...) return table.concat(assert(form.values(...)), "|") end
    assert(values("a=1&B=2;b=3&%42=%zz4+5+&b&\0 b\r\n = x", "b") == "2|3|%zz4 5||x")
    assert(values("a=1&b=2&c=3", "a", "c") == "1|3" and values("", "a") == "" and values("&;&=x", "a") == "")
    assert(values("a=%26b%3D1", "b") == "" and values("b=%26b%3D1", "b") == "&b=1" and values("=x", "") == "x")
    assert(values("a%=1&a%4=2&a=%4", "a%", "a%4", "a") == "1|2|%4")
    assert(values("b=" .. ("x"):rep(128), "b") == ("x"):rep(128) and values("b=" .. ("x"):rep(129), "b") == "")
    assert(values("b" .. (" "):rep(5000) .. "=1", "b") == "1" and values(("b"):rep(200) .. "=1", ("b"):rep(200)) == "")
    local many, why = form.values(("b&"):rep(17), "b")
    assert(not many and why == "too_many" and #form.values(("b&"):rep(16), "b") == 16)
  end,

  ["a pair without a value is left out"] = function()
    assert(form { { "a", nil }, { "b", "1" }, { "c" } } == "b=1")
    assert(form { { "a" } } == "")
  end,

  ["numbers are written as Lua writes them"] = function()
    assert(form { { "n", 3600 }, { "f", 0.5 }, { 7, "x" } } == "n=3600&f=0.5&7=x")
  end,

  ["a query has %20 where a form has +"] = function()
    assert(uri.query { { "q", "a b+c~*" } } == "q=a%20b%2Bc~%2A")
    assert(form { { "q", "a b+c~*" } } == "q=a+b%2Bc%7E*")
  end,

  ["a secret part makes the whole a secret"] = function()
    local s = core.of "canary"
    assert(secret.is(form { { "a", "1" }, { "client_secret", s } }))
    assert(secret.is(form { { s, "1" } }) and secret.is(uri.query { { "key", s } }))
    assert(secret.is(uri.percent(s)) and uri.percent("a b") == "a%20b")
  end,

  ["what is no pair raises"] = function()
    raises(function() return form { "a=b" } end, "pair 1 is not a table")
    raises(function() return form { { "a", "1" }, { "b", true } } end, "pair 2: the value")
    raises(function() return form { { "b", { "x" } } } end, "pair 1: the value")
    raises(function() return form { { nil, "x" } } end, "pair 1: the name")
    raises(function() return form "a" end, "table expected")
    local many = {}
    for i = 1, 1001 do many[i] = { "a", "b" } end
    raises(function() return form(many) end, "more than 1000 pairs")
  end,

  ["a form is read as browsers write it"] = function()
    assert(flat(assert(form.parse "a=1&b=x+y&c&=d&a=%26&&e=f=g&")) == "a=1|b=x y|c=|=d|a=&|e=f=g")
    assert(#form.parse "" == 0 and #form.parse "&&" == 0)
    assert(flat(assert(uri.parse_query "q=%C3%A9+z&%00=%00")) == "q=\u{e9} z|\0=\0")
  end,

  ["a broken escape is malformed"] = function()
    for _, bad in ipairs { "a=%", "a=%4", "a=%zz", "%g0=1", "x=1&y=%%41" } do
      local v, code = form.parse(bad)
      assert(v == nil and code == "malformed", bad)
    end
    assert(select(2, form.parse(("a&"):rep(1001))) == "too_many")
  end,

  ["decode undoes percent, and leaves + alone"] = function()
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    all = table.concat(all)
    assert(uri.decode(uri.percent(all)) == all)
    assert(uri.decode("a+b%2bC%2B") == "a+b+C+")
    assert(select(2, uri.decode("%")) == "malformed" and select(2, uri.decode("%1")) == "malformed" and select(2, uri.decode("%1g")) == "malformed")
    raises(function() return uri.decode(core.of "x") end, "string expected")
  end,

  ["a form read back gives the same pairs"] = function()
    local list = { { "a b", "\0\255&=+%" }, { "", "x" }, { "\u{1f600}", "" } }
    assert(flat(form.parse(form(list))) == flat(list))
    assert(flat(uri.parse_query(uri.query(list))) == flat(list))
  end,
}
