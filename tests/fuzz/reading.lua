--- What must hold of the readers of bodies (lua/reading.lua, lua/pktline.lua), whatever they are given: check(kind, text, seed) raises where
-- it does not. For fuzz_reading.c, which has inputs made by libFuzzer, and as a program, which mutates inputs of its own:
--   sallyport lua tests/fuzz/reading.lua COUNT SEED [KIND]
-- The same bytes in other pieces are read alike, or both are refused; JSON that json.decode takes is read as json.decode reads it, and
-- what it does not take is refused; of a form and of multipart's parts every member is found that a server would find: those of PHP,
-- Rack, qs and Spring are written here once more, each from its own source, and nothing of theirs may be missing.
local reading, pktline, json = require "reading", require "pktline", require "json.core"
local M = {}

local MEMBERS = { "to", "list.*.to", "a.b", "*.x", "a.b.c", "a_b" }

local function text_of(v)
  return type(v) == "table" and "{}" or v == json.null and "null" or math.type(v) == "integer" and ("%d"):format(v) or type(v) == "number" and ("%.17g"):format(v)
    or type(v) .. tostring(v)
end

local function shown(values)
  local out = {}
  for path, list in pairs(values) do
    local one = {}
    for i, v in ipairs(list) do one[i] = text_of(v) end
    table.sort(one)
    out[#out + 1] = path .. "=" .. table.concat(one, "\1")
  end
  table.sort(out)
  return table.concat(out, "\2")
end

-- Reads it in pieces; next_size() says how long each is.
local function read(kind, text, next_size)
  local r, at = reading.new(kind, MEMBERS, "b"), 1
  repeat
    local n = next_size(#text)
    local last = at + n > #text
    local ok, why = r:feed(text:sub(at, at + n - 1), last)
    if not ok then
      assert(type(why) == "string" and r:feed("", true) == nil, "a reader that failed goes on")
      return nil, why
    end
    at = at + n
  until last
  assert(r.done, "the end was not seen")
  return r.values
end

-- The values of a member, of a document that is read: as the reader says of itself.
local function collect(value, steps, at, out)
  local step = steps[at]
  if step == nil then
    local list = type(value) == "table" and getmetatable(value) == "json.array"
    if list and #value > 0 then
      for _, v in ipairs(value) do out[#out + 1] = v end
    else
      out[#out + 1] = value
    end
    return
  end
  if type(value) ~= "table" or value == json.null then return end
  local array = getmetatable(value) == "json.array"
  for k, v in pairs(value) do
    if step == "*" or not array and k:gsub("%z.*$", ""):gsub("\u{17f}", "s"):gsub("\u{212a}", "k"):lower() == step then collect(v, steps, at + 1, out) end
  end
end

local function paths(doc)
  local values = {}
  for _, path in ipairs(MEMBERS) do
    local steps, out = {}, {}
    for step in path:gmatch("[^.]+") do steps[#steps + 1] = step end
    collect(doc, steps, 1, out)
    if out[1] ~= nil then values[path] = out end
  end
  return values
end

-- Reasons that are bounds, or about names, and no other reader's.
local own = { ["the body is nested too deep"] = true, ["the body has a name that is too long"] = true, ["a member that is looked for is too long"] = true,
  ["the body has a member twice"] = true, ["the body has more of the members that are looked for than are read"] = true, ["a number in the body is out of range"] = true }

local checks = {}

function checks.json(text, values, why)
  local ok, doc, wrong = pcall(json.decode, text)
  if not ok then doc = nil end
  if doc == nil then
    -- the two bounds on numbers differ in their words alone, and a name that stands twice where none is looked for is nobody's here
    assert(values == nil or wrong == "duplicate" or wrong == "number" or tostring(wrong):find("range"), "json.decode refuses what was read: " .. tostring(wrong))
  elseif values then
    assert(shown(values) == shown(paths(doc)), "json.decode reads other values: " .. shown(values) .. " / " .. shown(paths(doc)))
  else
    assert(own[why], "json.decode reads what was refused: " .. tostring(why))
  end
end

-- ---- servers: name -> the path of the value, as steps; nil: they drop it ----------------------------

local servers = {}

function servers.plain(name) return { name } end

-- php_register_variable_ex of main/php_variables.c; a name is a C string there
function servers.php(name)
  name = name:gsub("^ +", ""):gsub("%z.*$", "")
  local first, at = name:match("^([^%[]*)()")
  local steps = { (first:gsub("[. ]", "_")) }
  if first == "" and name:sub(1, 1) ~= "[" then return nil end
  while name:sub(at, at) == "[" do
    local close = name:find("]", at + 1, true)
    if not close then
      if not steps[2] then steps[1] = steps[1] .. "_" .. name:sub(at + 1):gsub("[. %[]", "_") end
      break
    end
    local index = name:sub(at + 1, close - 1)
    steps[#steps + 1] = index:find("^%s?$") and "0" or index
    at = close + 1
  end
  return steps[1] ~= "" and steps or nil
end

-- Rack::QueryParser#normalize_params as of 2.0: /\A[\[\]]*([^\[\]]+)\]*/, and what is behind it
function servers.rack(name)
  local steps = {}
  while name ~= "" do
    local step, rest = name:match("^[%[%]]*([^%[%]]+)%]*(.*)$")
    if not step then
      if name == "[]" then steps[#steps + 1] = "0" end      -- an element; anything else is dropped
      break
    end
    if steps[1] and name:find("^%[%]") then steps[#steps + 1] = "0" end
    steps[#steps + 1], name = step, rest
  end
  return steps[1] and steps or nil
end

-- The same as of Rack 3
function servers.rack3(name)
  local from = name:find("[", 2, true)
  local steps = { from and name:sub(1, from - 1) or name }
  name = from and name:sub(from) or ""
  while name ~= "" do
    local inner, rest = name:match("^%[([^%]]*)%](.*)$")
    if not inner then
      steps[#steps + 1] = name
      break
    end
    steps[#steps + 1], name = inner == "" and "0" or inner, rest
  end
  return steps[1] ~= "" and steps or nil
end

-- parseKeys of qs: the parent stands before the first whole brackets, and what is between and behind them is no part of it
function servers.qs(name)
  local from = name:find("%[[^%[%]]*%]")
  local steps = { from and name:sub(1, from - 1) or name }
  for step in (from and name:sub(from) or ""):gmatch("%[([^%[%]]*)%]") do steps[#steps + 1] = step == "" and "0" or step end
  if steps[1] == "" then table.remove(steps, 1) end
  return steps[1] and steps or nil
end

-- getFirstNestedPropertySeparatorIndex of Spring's PropertyAccessorUtils, and getPropertyNameTokens of AbstractNestablePropertyAccessor
function servers.spring(name)
  local steps, pieces, in_key, from = {}, {}, false, 1
  for at, c in name:gmatch("()([.%[%]])") do
    if c == "." and not in_key then
      pieces[#pieces + 1], from = name:sub(from, at - 1), at + 1
    elseif c ~= "." then
      in_key = not in_key
    end
  end
  pieces[#pieces + 1] = name:sub(from)
  for _, piece in ipairs(pieces) do
    local step, at = #steps + 1, piece:find("[", 1, true)
    steps[step] = piece
    while at do
      local key = piece:match("^(%b[])", at)
      if not key then break end
      if step == #steps then steps[step] = piece:sub(1, at - 1) end
      steps[#steps + 1] = key:match("^%['(.*)'%]$") or key:match('^%["(.*)"%]$') or key:sub(2, -2)
      at = piece:find("[", at + #key, true)
    end
  end
  return steps
end

-- Does the path lead to the member, or into it?
local function leads(steps, member)
  local i = 0
  for want in member:gmatch("[^.]+") do
    i = i + 1
    if not steps[i] or want ~= "*" and steps[i]:lower() ~= want then return false end
  end
  return true
end

-- What some server finds must have been found.
local function held(name, values, value)
  for server, read_name in pairs(servers) do
    local steps = read_name(name)
    for _, member in ipairs(steps and MEMBERS or {}) do
      if leads(steps, member) then
        local found = false
        for _, v in ipairs(values[member] or {}) do found = found or value == nil or v == value end
        assert(found, ("%s finds %s under the name %q"):format(server, member, name))
      end
    end
  end
end

-- WHATWG URL 5.1; nil: an escape is half, which servers read in different ways
local function urldecoded(text)
  text = text:gsub("+", " ")
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  return (text:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end))
end

function checks.form(text, values)
  if not values then return end
  for _, mark in ipairs { "&", "[&;]" } do          -- Perl's CGI, and Rack until 3, part at ";", too
    for pair in (text:gsub(mark, "&") .. "&"):gmatch("([^&]*)&") do
      local name, value = pair:match("^([^=]*)=?(.*)$")
      name, value = urldecoded(name), urldecoded(value)
      if name and name ~= "" then held(name, values, value) end
    end
  end
end

-- RFC 2046 5.1.1 and RFC 7578 4.2: of parts that are written as everybody writes them
function checks.multipart(text, values)
  if not values then return end
  for head in ("\n" .. text):gmatch("\n%-%-b\r?\n(.-)\r?\n\r?\n") do
    local line = ("\n" .. head):match("\n(Content%-Disposition: form%-data;[^\n]*)")
    local name = line and line:match('; name="([^"\\%%]*)"')
    if name then held(name, values, nil) end
  end
end

local function deterministic(seed)
  local state = seed | 1
  return function(most)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    local size = (state >> 8) % 40 + 1
    return (state >> 20) % 4 == 0 and math.max(1, most // 2) or size
  end
end

local function pkt(text)
  local push, why = pktline.parse(text)
  for _, n in ipairs { #text // 2, #text - 1 } do
    local half, half_why = pktline.parse(text:sub(1, math.max(n, 0)))
    -- what was understood, or refused, of a beginning does not change with what comes behind it
    assert(not half or push and #half.commands == #push.commands, "more bytes change what was read")
    assert(not half_why or half_why == why, "more bytes make it readable")
  end
  if push then
    for _, c in ipairs(push.commands) do
      assert(#c.old == #c.new and (#c.old == 40 or #c.old == 64) and c.ref ~= "" and not c.ref:find("[%c ]"), "a command that is none")
    end
    pktline.refusal(push, "no", "why")
  end
end

--- kind: "json" | "form" | "multipart" | "pkt-line"
function M.check(kind, text, seed)
  if kind == "pkt-line" then return pkt(text) end
  local values, why = read(kind, text, function(all) return all + 1 end)
  local again = read(kind, text, deterministic(seed))
  assert((values == nil) == (again == nil), "other pieces are read otherwise: " .. tostring(why))
  if values then assert(shown(values) == shown(again), "other pieces have other values") end
  checks[kind](text, values, why)
end

-- ---- a program --------------------------------------------------------------------------------------

local zero, one = ("0"):rep(40), ("1"):rep(40)
local function line(text) return ("%04x%s"):format(#text + 4, text) end
local function part(head, content) return ("--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"):format(head, content) end

local seeds = {
  json = { '{"to":"a","list":[{"to":"b"},{"to":["c",1,null,true]}],"a":{"b":{}},"z":{"x":-1.5e3}}', '{"to":"\\u00e9\\ud83d\\ude00","a":{"b":[]}, "q" : [ [ [ 1 , 2 ] ] ] }',
    '[{"x":1},{"x":"\\"\\\\"}]', '{"TO":"x","\\u0074o":"y"}', '"to"', '{"n":{"a":{"b":{"c":{"d":{"e":{"f":[0]}}}}}},"to":"1","x":{"x":"y"}}' },
  form = { "to=a%40b&x=1&to=c", "a[b][]=1&a%5Bb%5D=2&list.0.to=x", "x=1;to=2", "to[0]=y&+to=z&to%00x=1", "=&&a=b&x", "TO=1&a.b=%F0%9F%98%80", "a[b]x[c]=1&a%5B%27b%27%5D=2&a%5bb%5d=3",
    "[a][b]=1&a[b=2&a]b=3&x&a[[b]]=4", "list[][to]=1&list[0]to=2&list.0[to]x=3&a%20b=4&a.b%5bc=5", "to%5B%5D=1&to[0][x]=2&to%5b+%5d=3;x=1", "+a[b][0][c]=1&z[x][]=2&%5Bz%5D%5Bx%5D=3" },
  multipart = { part('name="to"', "x") .. part('name="y"; filename="z"', "--c\r\n") .. "--b--\r\n", part("name=to", "") .. "--b--", part('name="a[b]x[c]"', "1") .. part('name="list[0][to]"; filename="f"', "2") .. "--b--",
    part("name=\"a['b']\"", "1") .. part('name="to[]"', "2") .. part('name=" a.b[c"', "3") .. "--b--\r\n",
    "pre\r\n" .. part("name*=utf-8''to", "x") .. "--b--\r\n \r\n", (part('name="a.b"', "x") .. "--b--\r\n"):gsub("\r\n", "\n"), '--b\r\nContent-ID: <to>\r\n\r\nx\r\n--b--' },
  ["pkt-line"] = { line(zero .. " " .. one .. " refs/heads/new\0 report-status side-band-64k push-options") .. line(one .. " " .. zero .. " refs/heads/old") .. "0000" .. line "ci.skip" .. "0000PACK",
    line("shallow " .. one) .. line(one .. " " .. one .. " refs/tags/v1\n\0report-status") .. "0000", "0000", line("push-cert\0x") .. "0000" },
}

local words = { '"', "{", "}", "[", "]", ",", ":", "\\", "\\u", "\\ud83d", "0", "-", "1e9", "null", "to", "&", "=", ";", "%", "%2", "[", "+", "--b", "--b--", "\r\n", "\n", "\r\n\r\n",
  'name="to"', "0000", "0001", "0004", "00", "\0", "\255", "\xc3", "\xc3\xa9", "*", "refs/heads/x", " ", '"to":', '"x":', "name*=", "--", "[b]", "[]", "[c]", "a", "x", "['b']", ".", "b" }

local KEPT_MAX = 300

local function mutate(text, random, list)
  for _ = 1, random(1, 3) do
    local at, how = random(1, #text + 1), random(1, 12)
    if how == 1 then text = text:sub(1, at - 1) .. text:sub(at + random(1, 8))
    elseif how == 2 then text = text:sub(1, at - 1) .. words[random(1, #words)] .. text:sub(at)
    elseif how == 3 then text = text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + 1)
    elseif how == 4 then
      local other = list[random(1, #list)]
      text = text:sub(1, at - 1) .. other:sub(random(1, #other + 1))
    elseif how == 5 then
      local to = math.min(#text, at + random(1, 20))
      text = text:sub(1, to) .. text:sub(at, to) .. text:sub(to + 1)
    elseif how == 6 then text = text:sub(1, at)
    elseif how < 12 then
      local with = words[random(1, #words)]
      text = text:sub(1, at - 1) .. with .. text:sub(at + #with)
    else text = text:sub(1, at - 1) .. text:sub(at, at + 3):rep(random(2, 5)) .. text:sub(at + 4) end
  end
  return text:sub(1, 2000)
end

--- Runs `count` mutations of each kind, or of one. What went wrong is printed with its input.
function M.run(count, seed, only)
  math.randomseed(seed)
  local random = math.random
  for _, kind in ipairs { "json", "form", "multipart", "pkt-line" } do
    if not only or only == kind then
      local list, good = {}, 0
      for i, s in ipairs(seeds[kind]) do list[i] = s end
      for i = 1, count do
        local text = mutate(list[random(1, #list)], random, list)
        local ok, why = pcall(M.check, kind, text, i)
        if not ok then error(("%s: %s\n%q"):format(kind, why, text), 0) end
        -- what is still read becomes an input of its own, so that mutations add up
        local fine = kind == "pkt-line" and pktline.parse(text) or kind ~= "pkt-line" and read(kind, text, function(all) return all + 1 end)
        if fine then
          good = good + 1
          if random(1, 20) == 1 and #text < 1000 then list[#list < KEPT_MAX and #list + 1 or random(#seeds[kind] + 1, KEPT_MAX)] = text end
        end
      end
      print(("%s: %d inputs, %d of them could be read"):format(kind, count, good))
    end
  end
end

local args = { ... }
if args[1] and tonumber(args[1]) then M.run(math.tointeger(tonumber(args[1])), math.tointeger(tonumber(args[2] or 1)), args[3]) end
return M
