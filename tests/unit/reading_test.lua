--- Readers of bodies (lua/reading.lua): what they find, that pieces make no difference, and what is unreadable.
local reading = require "reading"
local null = require("json.core").null

local function read(kind, members, text, size, boundary)
  local r = reading.new(kind, members, boundary or "b")
  for at = 1, math.max(#text, 1), size or #text + 1 do
    local ok, why = r:feed(text:sub(at, at + (size or #text + 1) - 1), at + (size or #text + 1) > #text)
    if not ok then return nil, why end
  end
  return r.values
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" or a == null or b == null then return a == b end
  for k, v in pairs(a) do if not same(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

local function part(head, content) return ("--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"):format(head, content) end

local good = {
  { "json", { "to" }, '{"to":"a"}', { to = { "a" } } },
  { "json", { "to" }, ' {"x" : [1, {"to":"no"}] , "to" : ["a", "b"] }\n', { to = { "a", "b" } } },
  { "json", { "to" }, '{"to":{"a":1}}', { to = { {} } } },
  { "json", { "to" }, '{"to":[]}', { to = { {} } } },
  { "json", { "to" }, '{"to":[[1],{"a":2},"x",null,true,-0.5]}', { to = { {}, {}, "x", null, true, -0.5 } } },
  { "json", { "a.*.to", "a" }, '{"a":[{"to":"x"},{"b":1},{"TO":"y"}]}', { ["a.*.to"] = { "x", "y" }, a = { {}, {}, {} } } },
  { "json", { "*.to" }, '{"p":{"to":1},"q":{"to":2},"p":{"to":3}}', { ["*.to"] = { 1, 2, 3 } } },
  { "json", { "to" }, '{"t\\u006f":"\\u00e9\\ud83d\\ude00\\n"}', { to = { "é😀\n" } } },
  { "json", { "task" }, '{"ta\u{17f}k":"x"}', { task = { "x" } } },          -- Go folds the long s
  { "json", { "to" }, '{"to\\u0000x":"x"}', { to = { "x" } } },              -- a C string ends there
  { "json", { "to" }, '"to"', {} },
  { "json", { "to" }, '[1,2]', {} },
  { "json", { "to" }, '{"list":[{"a":{"b":[1,2,[3,{"c":"d"}]]}},7],"to":1}', { to = { 1 } } },
  { "form", { "to", "a.b" }, "to=x%40y+z&b=1&a[b]=2&a%5Bb%5D[]=3&a.b=4", { to = { "x@y z" }, ["a.b"] = { "2", "3", "4" } } },
  { "form", { "to" }, "x=" .. ("y"):rep(40000) .. "&to=1", { to = { "1" } } },
  { "form", { "to" }, "", {} },
  { "form", { "user_name" }, "user.name=1&user+name=2", { user_name = { "1", "2" } } },     -- PHP's
  { "multipart", { "to" }, part('name="to"', "x") .. part('name="y"; filename="to"', ("z"):rep(30000)) .. "--b--\r\n", { to = { {}, {} } } },
  { "multipart", { "to" }, part("name=x", "a\r\n--c") .. "--b--", {} },
  { "multipart", { "to" }, (part('name="to"', "x") .. "--b--\r\n"):gsub("\r\n", "\n"), { to = { {} } } },
  { "multipart", { "a.b" }, part('name="a[b]"', "x") .. "--b--\r\n", { ["a.b"] = { {} } } },
  -- dots within brackets are a step's own to all but some; what is between and behind brackets is dropped, or a step of its own
  { "form", { "list.*.to" }, "list[a.b][to]=1&list[0]x[to]=2&list['0']['to']=3&list[][][to]=4&list[a[b]to=5&list[0['b']][to]=6", { ["list.*.to"] = { "1", "2", "3", "4", "5", "6" } } },
  { "form", { "*.to" }, "x&[z]z][to]=1&a.b[to]=2", { ["*.to"] = { "1", "2" } } },
}

local deep = ("["):rep(64) .. ("]"):rep(64)
local bad = {
  { "json", '{"to":1,"to":2}', "twice" }, { "json", '{"to":1,"T\\u004f":2}', "twice" }, { "json", "{" }, { "json", "" }, { "json", "{}x" }, { "json", "{}{}" },
  { "json", "[" .. deep .. "]", "deep" }, { "json", '{"a":' .. deep .. "}", "deep" }, { "json", '{"a":"\1"}' }, { "json", '{"a":"\xff"}' }, { "json", '{"a":"\xed\xa0\x80"}' },
  { "json", '{"a":"\\ud800"}' }, { "json", '{"a":"\\udc00\\ud800"}' }, { "json", '{"a":"\\x"}' }, { "json", '{"a":01}' }, { "json", '{"a":+1}' }, { "json", '{"a":.5}' },
  { "json", '{"a":NaN}' }, { "json", '{"a":1,}' }, { "json", '{"a" 1}' }, { "json", "{'a':1}" }, { "json", '{"a":[1 2]}' }, { "json", '{"a":[1,]}' }, { "json", '{a:1}' },
  { "json", '\xef\xbb\xbf{}' }, { "json", '{"a":1]' }, { "json", '{"to":' .. ("1"):rep(200) .. "}" }, { "json", '{"to":1e999}', "range" },
  { "json", '{"to":"' .. ("x"):rep(5000) .. '"}', "too long" }, { "json", '{"' .. ("x"):rep(2000) .. '":1}', "name" },
  { "json", '{"to":[' .. ("1,"):rep(1500) .. "1]}", "more of the members" },
  { "form", "x=1;to=2", "different ways" }, { "form", "to=1;x=2", "different ways" }, { "form", "to=%4", "malformed" }, { "form", "t%6=1", "malformed" }, { "form", "to=%ff", "malformed" },
  { "form", "a=\n", "malformed" }, { "form", "to=" .. ("x"):rep(13000), "too long" }, { "form", "x=" .. ("y"):rep(20000) .. ";to=1", "different ways" },
  { "form", ("n"):rep(2000) .. "=1", "name" }, { "form", "a=1&" .. ("n"):rep(20000), "name" },
  { "multipart", part("name=to", "x") }, { "multipart", "" }, { "multipart", part('name="to"', "x") .. "--b--\r\nx" }, { "multipart", part("name='to'", "x") .. "--b--" },
  { "multipart", part('name="x"', "x--b") .. "--b--" }, { "multipart", part('name="x"; name="to"', "") .. "--b--" }, { "multipart", "--b\r\nX: " .. ("y"):rep(9000) .. "\r\n\r\n\r\n--b--" },
  { "multipart", part('name="x"', "") .. "--b \r\n--b--" },
}

return {
  ["members are found where they are declared, in whatever pieces the body comes"] = function()
    for _, case in ipairs(good) do
      for _, size in ipairs { false, 1, 2, 3, 7, 100, 16384 } do
        if size ~= 1 or #case[3] < 20000 then
          local values, why = read(case[1], case[2], case[3], size or nil)
          assert(values and same(values, case[4]), ("%s, %s: %s"):format(case[3]:sub(1, 80), size, why))
        end
      end
    end
  end,

  ["each cut of a body is read like the whole"] = function()
    for _, case in ipairs(good) do
      if #case[3] < 300 then
        for cut = 0, #case[3] do
          local r = reading.new(case[1], case[2], "b")
          assert(r:feed(case[3]:sub(1, cut), false) and r:feed(case[3]:sub(cut + 1), true) and same(r.values, case[4]), ("%s at %d"):format(case[3], cut))
        end
      end
    end
  end,

  ["what servers may read in other ways is unreadable, in whatever pieces it comes"] = function()
    for _, case in ipairs(bad) do
      for _, size in ipairs { false, 1, 5, 1000 } do
        local values, why = read(case[1], { "to" }, case[2], size or nil)
        assert(values == nil and why:find(case[3] or "", 1, true), ("%s, %s: %s"):format(case[2]:sub(1, 80), size, why))
      end
    end
    for _, boundary in ipairs { "a b", ("x"):rep(71), "" } do
      assert(read("multipart", { "to" }, "--" .. boundary .. "--", nil, boundary) == nil or boundary == "")
    end
  end,

  ["a beginning of JSON is never the whole of it"] = function()
    local text = '{"to":["a",{"b":-1.5}],"x":"\\u00e9"}'
    for n = 0, #text - 1 do
      local r = reading.new("json", { "to" })
      assert(r:feed(text:sub(1, n), false) and not r.done and not r:feed("", true), text:sub(1, n))
    end
    local r = reading.new("json", { "to" })
    assert(r:feed(text, false) and r.done, "its last byte ends it, whatever comes behind")
    assert(r:feed("  \n", false) and r:feed(" ", true))
  end,

  ["a reader holds little, however long the body is"] = function()
    local r = reading.new("json", { "to", "list.*.to" })
    assert(r:feed('{"list":[', false))
    local piece = ('{"a":"' .. ("x"):rep(50) .. '","b":[1,2,{"c":"d"}]},'):rep(300)
    collectgarbage()
    local before = collectgarbage("count")
    for _ = 1, 200 do assert(r:feed(piece, false)) end
    collectgarbage()
    assert(collectgarbage("count") - before < 200, collectgarbage("count") - before)
    assert(r:feed('0],"to":"x"}', true) and r.values.to[1] == "x")
  end,

  ["mutated bodies are read as other readers read them, or refused"] = function()
    local fuzz = dofile "tests/fuzz/reading.lua"
    local print_ = print
    print = function() end
    local ok, why = pcall(fuzz.run, 1500, 1)
    print = print_
    assert(ok, why)
  end,
}
