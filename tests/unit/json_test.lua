--- JSON as Lua sees it (RFC 8259). What C's reader refuses byte by byte is in value_test.c.
local json = require "json"
local secret = require "secret"
local core = require "secret.core"

local function raises(fn, part)
  local ok, message = pcall(fn)
  assert(not ok, "nothing raised")
  assert(tostring(message):find(part, 1, true), message)
end

return {
  ["values of every kind are read"] = function()
    local v = assert(json.decode('{"s":"\\u00e9\\ud83d\\ude00","i":-7,"f":1.5,"t":true,"n":null,"a":[1,[2]],"o":{"":0}}'))
    assert(v.s == "\u{e9}\u{1f600}" and v.i == -7 and v.f == 1.5 and v.t == true and v.n == json.null)
    assert(#v.a == 2 and v.a[2][1] == 2 and v.o[""] == 0)
    assert(json.decode(" 3 ") == 3 and json.decode("false") == false and json.decode('"x"') == "x")
  end,

  ["each byte is what it is wherever it stands in a string, and however long that is"] = function()
    for byte = 0, 255 do
      local c = string.char(byte)
      local plain = byte >= 32 and byte < 128 and c ~= '"' and c ~= "\\"
      for _, size in ipairs { 1, 7, 8, 9, 17 } do
        for at = 0, size - 1 do
          local text = ("a"):rep(at) .. c .. ("\127"):rep(size - 1 - at)
          assert(json.decode('"' .. text .. '"') == (plain and text or nil), ("%d at %d of %d"):format(byte, at, size))
        end
      end
    end
  end,

  ["integers stay integers, everything else is a float"] = function()
    assert(math.type(json.decode("9223372036854775807")) == "integer")
    assert(json.decode("9007199254740993") == 9007199254740993)
    assert(math.type(json.decode("9223372036854775808")) == "float")
    assert(math.type(json.decode("1.0")) == "float" and math.type(json.decode("1e2")) == "float")
  end,

  ["a bad text is nil, a code and where"] = function()
    local v, code, at = json.decode('{"a": tru}')
    assert(v == nil and code == "malformed" and at == 7, at)
    assert(select(2, json.decode("")) == "malformed")
    assert(select(2, json.decode("[1,]")) == "malformed")
    assert(select(2, json.decode("[1] 2")) == "malformed")
    assert(select(2, json.decode("{'a':1}")) == "malformed")
    assert(select(2, json.decode("NaN")) == "malformed")
    assert(select(2, json.decode("\u{feff}{}")) == "malformed")
    assert(select(2, json.decode('"\255"')) == "malformed")
    assert(select(2, json.decode('"\\ud800"')) == "malformed")
  end,

  ["an object with one name twice is refused, at any depth"] = function()
    assert(select(2, json.decode('{"a":1,"a":1}')) == "duplicate")
    assert(select(2, json.decode('[{"x":{"a":1,"\\u0061":null}}]')) == "duplicate")
    assert(json.decode('{"a":{"a":1},"b":{"a":1}}'))
  end,

  ["a number that no double holds is refused"] = function()
    assert(select(2, json.decode("1e999")) == "number")
    assert(select(2, json.decode("[" .. ("1"):rep(129) .. "]")) == "number")
    assert(json.decode(("1"):rep(128)))
  end,

  ["64 levels are read and written, 65 are not"] = function()
    local deep = ("["):rep(64) .. ("]"):rep(64)
    assert(json.encode(assert(json.decode(deep))) == deep)
    assert(select(2, json.decode("[" .. deep .. "]")) == "malformed")
    raises(function() return json.encode { json.decode(deep) } end, "nested deeper than 64")
    local loop = {}
    loop.loop = loop
    raises(function() return json.encode(loop) end, "nested deeper than 64")
  end,

  ["names are sorted by their bytes"] = function()
    assert(json.encode { b = 1, a = 2, B = 3, aa = 4, [""] = 5, ["\u{e9}"] = 6 } == '{"":5,"B":3,"a":2,"aa":4,"b":1,"\u{e9}":6}')
  end,

  ["lists and objects are told apart by their keys"] = function()
    assert(json.encode { 1, "a", false } == '[1,"a",false]')
    assert(json.encode {} == "{}" and json.encode(json.array {}) == "[]")
    assert(json.encode(json.array { 1 }) == "[1]")
    assert(json.encode(json.decode("[[],{}]")) == "[[],{}]")
    local t = json.array {}
    assert(rawequal(json.array(t), t) and getmetatable(t) == "json.array")
  end,

  ["tables that are neither raise"] = function()
    raises(function() return json.encode { 1, nil, 3 } end, "holes")
    raises(function() return json.encode { 1, a = 2 } end, "holes or names")
    raises(function() return json.encode { [1.5] = 1 } end, "neither a string nor 1, 2, 3")
    raises(function() return json.encode { [0] = 1 } end, "neither a string nor 1, 2, 3")
    raises(function() return json.encode { [true] = 1 } end, "neither a string nor 1, 2, 3")
    raises(function() local t = json.array {} t.a = 1 return json.encode(t) end, "holes or names")
    raises(function() return json.array(setmetatable({}, {})) end, "metatable")
  end,

  ["numbers are written shortest and read back the same"] = function()
    assert(json.encode { 1, 1.0, 0.1, -0.5, 1e100, 123456789012, 1 / 3 } == "[1,1.0,0.1,-0.5,1e+100,123456789012,0.3333333333333333]")
    for _, v in ipairs { 0.1, 1 / 3, 2 ^ 53, 5e-324, 1.7976931348623157e308, math.maxinteger, math.mininteger } do
      local back = json.decode(json.encode(v))
      assert(back == v and math.type(back) == math.type(v))
    end
    raises(function() return json.encode(0 / 0) end, "not finite")
    raises(function() return json.encode(math.huge) end, "not finite")
  end,

  ["strings are escaped, and must be UTF-8"] = function()
    assert(json.encode('"\\/\b\f\n\r\t\0\31\127\u{2028}') == [["\"\\/\b\f\n\r\t\u0000\u001f\u007f]] .. "\u{2028}\"")
    raises(function() return json.encode "\255" end, "not UTF-8")
    raises(function() return json.encode { ["\255"] = 1 } end, "not UTF-8")
  end,

  ["an indented text is the same value"] = function()
    assert(json.encode({ a = { 1, 2 }, b = {}, c = { d = true } }, { indent = 2 })
      == '{\n  "a": [\n    1,\n    2\n  ],\n  "b": {},\n  "c": {\n    "d": true\n  }\n}')
    raises(function() return json.encode({}, { indent = 9 }) end, "indent")
  end,

  ["what has no JSON form raises"] = function()
    raises(function() return json.encode(print) end, "function has no JSON form")
    raises(function() return json.encode(nil) end, "nil has no JSON form")
    raises(function() return json.encode(io and io.stdout or coroutine.running()) end, "no JSON form")
    raises(function() return json.encode() end, "nil has no JSON form")
  end,

  ["a text with a secret in it is a secret, and only json.build makes it"] = function()
    local s = core.of "canary"
    assert(secret.is(json.build { token = s }) and secret.is(json { { s } }) and secret.is(json(s)))
    assert(json.build { token = "plain" } == '{"token":"plain"}' and json { 1 } == "[1]")
    raises(function() return json.encode { token = s } end, "a secret")
    raises(function() return json.build { [s] = 1 } end, "neither a string")
    raises(function() return json.decode(s) end, "string expected")
  end,
}
