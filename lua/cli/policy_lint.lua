--- What a policy's source says by mistake: sallyport policy check. The compiler has taken it already, so the syntax is right, and
-- the reader below need not be strict: it follows blocks and names.
local comparisons = require "cli.comparisons"
local M = {}

local keywords = comparisons.keywords
local UNUSED_OK = "^_"
local opens, closes = { ["("] = ")", ["["] = "]", ["{"] = "}" }, { [")"] = true, ["]"] = true, ["}"] = true }

local Reader = {}
Reader.__index = Reader

function Reader:say(t, code, text) self.found[#self.found + 1] = { at = t.at, code = code, text = text } end
function Reader:kind(n) local t = self.list[self.i + (n or 0)]; return t and t.kind end
function Reader:name(n)
  local t = self.list[self.i + (n or 0)]
  return t and t.value and t.kind == t.value and not keywords[t.kind] and t or nil
end

-- ---- scopes --------------------------------------------------------------------------------------

function Reader:open() self.scopes[#self.scopes + 1] = {} end

function Reader:close()
  for name, l in pairs(table.remove(self.scopes)) do
    if not l.used and not name:find(UNUSED_OK) and not l.parameter then
      self:say(l.token, "unused", l.set and ("the local '%s' is set and never read"):format(name) or ("the local '%s' is never used"):format(name))
    end
  end
end

-- parameter: "function", or "for". rule: it is set to ctx.rule.
function Reader:declare(t, parameter, rule)
  local scope, was = self.scopes[#self.scopes], nil
  was = scope[t.value]
  if was and not was.used and not was.parameter and not t.value:find(UNUSED_OK) then
    self:say(was.token, "unused", ("the local '%s' is never used: another takes its name"):format(t.value))
  end
  scope[t.value] = { token = t, parameter = parameter, rule = rule }
end

function Reader:find(name)
  for i = #self.scopes, 1, -1 do
    if self.scopes[i][name] then return self.scopes[i][name] end
  end
end

local elsewhere = {
  print = "policies have no print: log(…)", require = "policies are one file each", os = "there is no os: time.wall()", io = "there is no io",
  setmetatable = "there are no metatables", getmetatable = "there are no metatables", load = "no code is loaded", rawget = "there are no metatables",
  rawset = "there are no metatables", coroutine = "there are no coroutines", collectgarbage = "memory is the proxy's", _G = "there is no table of globals",
  unpack = "it is table.unpack",
}

function Reader:use(t)
  local l = self:find(t.value)
  if l then l.used = true return end
  if self.globals[t.value] then return end
  local near = require("records").nearest(t.value, self.global_names)
  self:say(t, "global", ("'%s' is no global of policies%s"):format(t.value, elsewhere[t.value] and ": " .. elsewhere[t.value] or near and (": did you mean %s?"):format(near) or ""))
end

-- ---- expressions ---------------------------------------------------------------------------------

-- Is the name at i a key or a member, and not a variable?
function Reader:is_member()
  local before, next_kind = self:kind(-1), self:kind(1)
  if before == "." or before == ":" or before == "::" or before == "goto" then return true end
  if next_kind == "=" and (before == "{" or before == "," or before == ";") and self.tables[#self.tables] then return true end
  return before == "<" and (self:kind(1) == ">") and (self.list[self.i].value == "const" or self.list[self.i].value == "close")
end

-- ---- comparisons that can only come out one way ---------------------------------------------------

-- What a token is by itself: its type and, of a text or number, its value. Nil: not known, or more follows.
local function literal(list, i, before)
  local t = list[i]
  if not t then return nil end
  if t.kind == "<text>" then return "string", t end
  if t.kind == "<number>" then return "number", t end
  if t.kind == "nil" then return "nil", t end
  if t.kind == "true" or t.kind == "false" then return "boolean", t end
  if not before and t.kind == "{" and list[i + 1] and list[i + 1].kind == "}" then return "table", t end
end

local ends = { ["then"] = true, ["and"] = true, ["or"] = true, ["do"] = true, [")"] = true, ["]"] = true, ["}"] = true, [","] = true, [";"] = true,
  ["end"] = true, ["else"] = true, ["return"] = true, ["local"] = true, ["if"] = true, ["for"] = true, ["until"] = true, ["elseif"] = true }
local begins = { ["if"] = true, ["elseif"] = true, ["while"] = true, ["until"] = true, ["and"] = true, ["or"] = true, ["not"] = true, ["return"] = true,
  ["("] = true, ["="] = true, [","] = true, ["{"] = true, [";"] = true }
local types = { ["nil"] = true, number = true, string = true, boolean = true, table = true, ["function"] = true, thread = false, userdata = true, secret = false }
local equal = { ["=="] = true, ["~="] = true }
local orders = { ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

-- The name of the call that ends before i: "type", "req.headers:get"; where its arguments begin.
local function call_before(list, i)
  if not list[i] or list[i].kind ~= ")" then return nil end
  local depth = 0
  repeat
    if closes[list[i].kind] then depth = depth + 1 elseif opens[list[i].kind] then depth = depth - 1 end
    i = i - 1
  until depth == 0 or not list[i]
  local words = {}
  while list[i] and list[i].value and list[i].kind == list[i].value and not keywords[list[i].kind] do
    table.insert(words, 1, list[i].value)
    if list[i - 1] and (list[i - 1].kind == "." or list[i - 1].kind == ":") then
      table.insert(words, 1, list[i - 1].kind)
      i = i - 2
    else
      break
    end
  end
  return table.concat(words)
end

-- What the fields of a request are, whatever it is.
local texts = { ["req.method"] = "%u", ["req.host"] = "%l", ["req.scheme"] = "%l" }

local function dotted_before(list, i)
  local a, dot, b = list[i - 2], list[i - 1], list[i]
  if a and dot and b and dot.kind == "." and a.value and b.value and (list[i - 3] or {}).kind ~= "." then return a.value .. "." .. b.value end
end

-- The field of the policy's own that is named before i, as `cred.NAME` or `ctx.rule.NAME` (rule.NAME). The name before it is a
-- function's parameter, or a local that was set to ctx.rule: any other local may be another table.
function Reader:own_field(i)
  local list, pol = self.list, self.pol
  local name, dot, of = list[i], list[i - 1], list[i - 2]
  if not (name and dot and of and dot.kind == "." and of.value == (pol.kind == "rule" and "rule" or "cred")) then return nil end
  local before = list[i - 3]
  if before and before.kind == "." then
    if not (pol.kind == "rule" and (list[i - 4] or {}).value == "ctx") then return nil end
    of = list[i - 4]
  end
  local l = self:find(of.value)
  if l and (l.set or l.parameter ~= "function" and not l.rule) then return nil end
  return pol.by_name and pol.by_name[name.value]
end

local held = { integer = "number", boolean = "boolean", list = "table", map = "table", document = "table" }

-- A field, compared with what none of its type is | nil
local function other_type(f, right, rt)
  if right == "nil" then return f.default ~= nil and ("the field %s has a default, so it is never nil"):format(f.name) or nil end
  local is = held[f.type] or "string"
  if right ~= is then return ("the field %s is a %s, and this is a %s"):format(f.name, is == "string" and "text" or is, right == "string" and "text" or right) end
  for _, v in ipairs(f.values or {}) do
    if v == rt.value or rt.value:find("\\", 1, true) then return nil end
  end
  return f.values and ("the field %s is one of %s"):format(f.name, table.concat(f.values, ", ")) or nil
end

local function less(a, b) return a < b end
local function most(a, b) return a <= b end
-- `a OP b` of an integer between the bounds of its field: where the first fits the bound, always true, where the second does, false.
local bounds = {
  ["<"] = { { "max", less }, { "min", function(a, b) return a >= b end } }, ["<="] = { { "max", most }, { "min", function(a, b) return a > b end } },
  [">"] = { { "min", function(a, b) return a > b end }, { "max", most } }, [">="] = { { "min", function(a, b) return a >= b end }, { "max", less } },
}

-- An integer, compared with a number that its bounds leave no choice about | nil
local function out_of_bounds(f, op, n)
  if not n then return nil end
  local range = ("the field %s is%s%s"):format(f.name, f.min and (" at least %d"):format(f.min) or "",
    f.max and ("%s at most %d"):format(f.min and " and" or "", f.max) or "")
  if equal[op] then
    local out = f.min and n < f.min or f.max and n > f.max
    return out and ("%s: this is always %s"):format(range, op == "~=") or nil
  end
  for i, bound in ipairs(bounds[op]) do
    if f[bound[1]] and bound[2](f[bound[1]], n) then return ("%s: this is always %s"):format(range, i == 1) end
  end
end

-- `x == "a" and x == "b"`, `x ~= "a" or x ~= "b"`: the same names from first to op - 1, and two texts or numbers.
function Reader:twice(first, op)
  local list, n = self.list, op - first + 3      -- from one comparison to the next: the names, the sign, the value, and | or
  local sign, joint = list[op].kind, list[op + 2]
  if not joint or joint.kind ~= (sign == "==" and "and" or "or") or (list[first - 1] or {}).kind == "not" then return nil end
  -- `or` binds less than `and`: that beside them is a part of one of the two
  local behind = (list[op + n + 2] or { kind = "end" }).kind
  if sign == "~=" and ((list[first - 1] or {}).kind == "and" or behind == "and") then return nil end
  for k = first, op do
    if not list[k + n] or list[k].kind ~= list[k + n].kind then return nil end
  end
  local one, other = list[op + 1], list[op + 1 + n]
  if not other or one.kind ~= other.kind or one.value == other.value or one.value:find("\\", 1, true) or other.value:find("\\", 1, true) then return nil end
  if one.kind == "<number>" and tonumber(one.value) == tonumber(other.value) then return nil end
  if not ends[behind] and not (list[op + n + 2].value and list[op + n + 2].kind == list[op + n + 2].value) then return nil end
  return sign == "==" and "nothing equals both: this is always false" or "all differs from one of the two: this is always true"
end

function Reader:compare()
  local list, i = self.list, self.i
  local t = list[i]
  local left, lt = literal(list, i - 1, true)
  local right, rt = literal(list, i + 1)
  local minus = list[i + 1] and list[i + 1].kind == "-" and literal(list, i + 2) == "number"
  if right and not ends[(list[i + 2] or { kind = "end" }).kind] and not (list[i + 2] and list[i + 2].value and list[i + 2].kind == list[i + 2].value) then right = nil end
  if left and not begins[(list[i - 2] or {}).kind] then left = nil end
  if left == "number" and (list[i - 2] or {}).kind == "-" then left = nil end
  local always = t.kind == "~=" and "true" or "false"
  if left and right then
    return self:say(t, "constant", ("both sides of %s are constants"):format(t.kind))
  end
  if right == "table" and equal[t.kind] then
    return self:say(t, "never", ("a new table equals nothing: this is always %s"):format(always))
  end
  local call = call_before(list, i - 1)
  if call == "type" and equal[t.kind] and right == "string" and types[rt.value] == nil then
    return self:say(t, "never", ("type(…) never answers \"%s\": this is always %s"):format(rt.value, always))
  end
  if (call == "type" or call == "tostring") and right and right ~= "string" and equal[t.kind] then
    return self:say(t, "never", ("%s(…) answers a text, and this is a %s: always %s"):format(call, right, always))
  end
  if (call == "tonumber" or call == "math.floor") and (right == "string" or right == "boolean") and equal[t.kind] then
    return self:say(t, "never", ("%s(…) answers a number, and this is a %s: always %s"):format(call, right, always))
  end
  local j = i - 1
  while list[j] and (list[j].kind == "." or list[j].value and list[j].kind == list[j].value and not keywords[list[j].kind]) do j = j - 1 end
  if list[j] and list[j].kind == "#" and j < i - 1 and (right and right ~= "number" or minus) and equal[t.kind] then
    return self:say(t, "never", ("a length is a number from 0: this is always %s"):format(always))
  end
  if list[j] and list[j].kind == "#" and j < i - 1 and t.kind == "<" and right == "number" and rt.value == "0" then
    return self:say(t, "never", "a length is a number from 0: this is always false")
  end
  local alone = begins[(list[j] or { kind = "(" }).kind]     -- and no part of a longer expression
  local f = alone and right and self:own_field(i - 1)
  if f and (f.secret or f.split) then f = nil end
  local why = f and equal[t.kind] and other_type(f, right, rt)
  if why then return self:say(t, "never", ("%s: this is always %s"):format(why, always)) end
  why = f and f.type == "integer" and right == "number" and out_of_bounds(f, t.kind, tonumber(rt.value))
    or alone and equal[t.kind] and (right == "string" or right == "number") and self:twice(j + 1, i)
  if why then return self:say(t, "never", why) end
  local field = alone and dotted_before(list, i - 1)
  local class = field and texts[field]
  if class and right and equal[t.kind] then
    if right ~= "string" then return self:say(t, "never", ("%s is a text, and this is a %s: always %s"):format(field, right, always)) end
    local wrong = class == "%u" and rt.value:find("%l") or class == "%l" and rt.value:find("%u")
    if wrong then
      return self:say(t, "never", ("%s is in %s letters: this is always %s"):format(field, class == "%u" and "capital" or "small", always))
    end
    if field == "req.host" and rt.value:find("[:/]") and not rt.value:find("^[%x:]+$") then
      return self:say(t, "never", ("req.host has no port and no scheme: this is always %s"):format(always))
    end
  end
  if field == "req.path" and right and equal[t.kind] and (right ~= "string" or rt.value:find("^[^/\\]") or rt.value == "") and right ~= "nil" then
    return self:say(t, "never", ("req.path is a text that begins with /: this is always %s"):format(always))
  end
  if field == "req.port" and right and right ~= "number" and equal[t.kind] then
    return self:say(t, "never", ("req.port is a number, and this is a %s: always %s"):format(right, always))
  end
  local before = list[i - 1]
  if orders[t.kind] and (right == "nil" or right == "boolean" or left == "nil" or left == "boolean") then
    return self:say(t, "fails", ("%s with %s raises an error"):format(t.kind, right or left))
  end
  -- `not x == y` compares a boolean
  if equal[t.kind] and before and list[j] and list[j].kind == "not" and j < i - 1 and right and right ~= "boolean" then
    return self:say(t, "never", ("`not x %s y` compares true or false with y: write `not (x %s y)`, or x %s y; this is always %s"):format(t.kind, t.kind,
      t.kind == "==" and "~=" or "==", always))
  end
end

-- ---- patterns --------------------------------------------------------------------------------------

local matchers = { find = true, match = true, gmatch = true, gsub = true }

-- The items of a Lua pattern: { class = text, repeats = "*" | "+" | "-" | nil }; anchored.
local function items(pattern)
  local list, at, anchored = {}, 1, pattern:sub(1, 1) == "^"
  if anchored then at = 2 end
  while at <= #pattern do
    local c, class, to = pattern:sub(at, at), nil, nil
    if c == "(" or c == ")" then
      at = at + 1
    else
      if c == "%" and pattern:sub(at + 1, at + 1) == "b" then to = at + 3
      elseif c == "%" and pattern:sub(at + 1, at + 1) == "f" then
        local _, stop = pattern:find("^%%f%[%^?%]?[^%]]*%]", at)
        to = stop or at + 1
      elseif c == "%" then to = at + 1
      elseif c == "[" then
        local _, stop = pattern:find("^%[%^?%]?[^%]]*%]", at)
        to = stop or #pattern
      else to = at end
      class = pattern:sub(at, to)
      local r = pattern:sub(to + 1, to + 1)
      local repeats = r:find("^[*+-]$") and r or nil
      if r == "?" then repeats = "?" end
      list[#list + 1] = { class = class, repeats = repeats }
      at = to + (repeats and 2 or 1)
    end
  end
  return list, anchored
end

-- May both classes take one byte?
local function overlap(a, b)
  local function set(class) return #class == 1 and class ~= "." and "%" .. class or class end
  for byte = 32, 126 do
    local c = string.char(byte)
    local ok, one = pcall(string.find, c, "^" .. set(a) .. "$")
    local fine, two = pcall(string.find, c, "^" .. set(b) .. "$")
    if ok and fine and one and two then return true end
  end
  return false
end

-- How a pattern may blow up | nil. Runs that may share one text multiply what is tried: n bytes, n ways each. A run ends where
-- an item follows that it cannot take; and behind a run of "." with nothing but what may be empty, nothing fails.
local function blows_up(pattern)
  local list, anchored = items(pattern)
  if list[#list] and list[#list].class == "$" then list[#list] = nil end
  local cut = #list + 1
  for i = #list, 1, -1 do
    if not list[i].repeats or list[i].repeats == "+" and list[i].class ~= "." then break end
    if list[i].class == "." then cut = i end
  end
  local most, runs = 0, {}
  for i = 1, cut - 1 do
    local item = list[i]
    for k = #runs, 1, -1 do
      if not overlap(runs[k], item.class) then table.remove(runs, k) end
    end
    if item.repeats and item.repeats ~= "?" then runs[#runs + 1] = item.class end
    most = math.max(most, #runs)
  end
  local degree = most + (anchored and 0 or 1)
  if most >= 2 and degree >= 3 then
    return ("%d runs of it may share one text%s, so n bytes may take n^%d steps: anchor it (^), or let a run stop at a byte that it does not take"):format(most,
      anchored and "" or ", and it may begin anywhere", degree)
  end
end

function Reader:pattern()
  local list, i = self.list, self.i
  local t = list[i]
  if not matchers[t.value] or (list[i - 1] or {}).kind ~= "." and (list[i - 1] or {}).kind ~= ":" then return end
  local at = i + 1
  if not list[at] then return end
  if list[at].kind == "(" then at = at + 1 end
  if list[i - 1].kind == "." then      -- string.find(text, pattern): behind the first comma
    if not (list[i - 2] and list[i - 2].value == "string") then return end
    local depth = 0
    while list[at] and not (depth == 0 and list[at].kind == ",") do
      if opens[list[at].kind] then depth = depth + 1 elseif closes[list[at].kind] then depth = depth - 1 end
      if depth < 0 then return end
      at = at + 1
    end
    at = at + 1
  end
  local p = list[at]
  if not p or p.kind ~= "<text>" or not p.value then return end
  if list[at + 1] and list[at + 1].kind == ".." then return end
  if list[at + 1] and list[at + 1].kind == "," and list[at + 3] and list[at + 3].kind == "," and list[at + 4] and list[at + 4].kind == "true" then return end
  local why = blows_up(p.value)
  if why then self:say(p, "pattern", why) end
end

-- ---- statements ------------------------------------------------------------------------------------

-- `function NAME(a, b)` from behind `function` on; the body's block is opened.
function Reader:parameters(method)
  while self:kind() and self:kind() ~= "(" do
    if self:name() and self:kind(-1) == "function" and self:kind(1) == "(" and not self.naming then self:use(self.list[self.i]) end
    if self:kind() == ":" then method = true end
    self.i = self.i + 1
  end
  self:open()
  if method then self:declare({ value = "self", at = self.list[self.i].at }, "function") end
  self.i = self.i + 1
  while self:kind() and self:kind() ~= ")" do
    if self:name() then self:declare(self:name(), "function") end
    self.i = self.i + 1
  end
  self.i = self.i + 1
end

-- Reads on to the end of a block, or of the file; blocks within it are read by their own call.
function Reader:block()
  while self.list[self.i] do
    local t = self.list[self.i]
    local k = t.kind
    if k == "end" or k == "until" or k == "else" or k == "elseif" then return end
    self:step(t, k)
  end
end

-- The names behind `local` or `for`, each with its attribute, if it has one.
function Reader:names()
  local names = {}
  while self:name() do
    names[#names + 1] = self:name()
    self.i = self.i + 1
    if self:kind() == "<" then self.i = self.i + 3 end
    if self:kind() ~= "," then break end
    self.i = self.i + 1
  end
  return names
end

-- A function from its parameters to its end.
function Reader:body()
  self:parameters(false)
  self.naming = false
  self.tables[#self.tables + 1] = false
  self:block()
  self.tables[#self.tables] = nil
  self:close()
  self.i = self.i + 1
end

-- One token, or all of a nested construct.
function Reader:step(t, k)
  if k == "function" then
    self.i = self.i + 1
    self:body()
  elseif k == "local" and self:kind(1) == "function" then
    self.i = self.i + 2
    if self:name() then self:declare(self:name()) end
    self.naming = true
    self:body()
  elseif k == "local" then
    self.i = self.i + 1
    local names = self:names()
    local is_rule = #names == 1 and self:kind() == "=" and self:kind(1) == "ctx" and self:kind(2) == "." and self:kind(3) == "rule" and self:kind(4) ~= "."
    -- the values see what was there before
    if self:kind() == "=" then
      self.i = self.i + 1
      self:values()
    end
    for _, n in ipairs(names) do self:declare(n, nil, is_rule) end
  elseif k == "for" then
    self.i = self.i + 1
    local names = self:names()
    self.i = self.i + 1
    while self.list[self.i] and self:kind() ~= "do" do self:step(self.list[self.i], self:kind()) end
    self.i = self.i + 1
    self:open()
    for _, n in ipairs(names) do self:declare(n, "for") end
    self:block()
    self:close()
    self.i = self.i + 1
  elseif k == "while" then
    self.i = self.i + 1
    while self.list[self.i] and self:kind() ~= "do" do self:step(self.list[self.i], self:kind()) end
  elseif k == "do" or k == "repeat" then
    self.i = self.i + 1
    self:open()
    self:block()
    local till = self:kind() == "until"
    self.i = self.i + 1
    if till then self:values() end       -- its condition sees the block's locals
    self:close()
  elseif k == "if" then
    repeat
      self.i = self.i + 1
      while self.list[self.i] and self:kind() ~= "then" and self:kind(-1) ~= "else" do self:step(self.list[self.i], self:kind()) end
      if self:kind() == "then" then self.i = self.i + 1 end
      self:open()
      self:block()
      self:close()
      local more = self:kind()
    until more ~= "else" and more ~= "elseif"
    self.i = self.i + 1
  elseif opens[k] then
    self.tables[#self.tables + 1] = k == "{"
    self.i = self.i + 1
    while self.list[self.i] and not closes[self:kind()] do self:step(self.list[self.i], self:kind()) end
    self.tables[#self.tables] = nil
    self.i = self.i + 1
  else
    if self:name() and not self:is_member() then
      if self:kind(1) == "=" and self:statement() then self:assign(t) else self:use(t) end
    end
    if equal[k] or orders[k] then self:compare() end
    if t.value then self:pattern() end
    self.i = self.i + 1
  end
end

-- Does a statement begin at i: is what stands before it the end of one?
function Reader:statement()
  local b = self.list[self.i - 1]
  return not b or b.kind == ";" or b.kind == "then" or b.kind == "do" or b.kind == "else" or b.kind == "repeat" or b.kind == "end" or b.kind == ")"
    or b.kind == "}" or b.kind == "]" or b.kind == "<text>" or b.kind == "<number>" or b.kind == "nil" or b.kind == "true" or b.kind == "false"
    or b.value ~= nil and not keywords[b.kind]
end

function Reader:assign(t)
  local l = self:find(t.value)
  if l then
    l.set = true
  else
    self:say(t, "global", ("'%s' is set as a global: use local; nothing outlives a request"):format(t.value))
  end
end

local binary = { ["and"] = true, ["or"] = true, ["not"] = true, ["=="] = true, ["~="] = true, ["<"] = true, [">"] = true, ["<="] = true, [">="] = true, [".."] = true,
  ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true, ["^"] = true, ["#"] = true, ["&"] = true, ["|"] = true, ["~"] = true,
  ["<<"] = true, [">>"] = true, ["."] = true, [":"] = true, [","] = true }

-- The values of `local … =` or `until`: to where the expression ends.
function Reader:values()
  local wants = true         -- an operand comes next
  while self.list[self.i] do
    local t = self.list[self.i]
    local k = t.kind
    local operator = binary[k]
    if not wants and not operator and not opens[k] and k ~= "<text>" then return end
    if not operator and not opens[k] and k ~= "function" and keywords[k] and k ~= "nil" and k ~= "true" and k ~= "false" then return end
    self:step(t, k)
    wants = operator or false
  end
end

-- ---- the check -----------------------------------------------------------------------------------

local function place(source, at)
  local before = source:sub(1, at - 1)
  local _, lines = before:gsub("\n", "")
  local line = before:match("([^\n]*)$")
  return lines + 1, (utf8.len(line) or #line) + 1
end

--- What is wrong in a source that compiles: { { line, column (letters, from 1), code, text } … } in order. pol: of policy.compile.
function M.check(pol)
  local source = pol.source
  local globals, names = {}, {}
  for name in pairs(require("allowed").given) do
    if name ~= "lua" then globals[name] = true end
  end
  for word in require("allowed").given.lua:gmatch("%S+") do globals[word] = true end
  for name in pairs(require("rules").functions) do globals[name] = true end
  for name in pairs(globals) do names[#names + 1] = name end
  table.sort(names)
  local self = setmetatable({ list = comparisons.tokens(source), i = 1, found = {}, scopes = { {} }, tables = {}, pol = pol, globals = globals, global_names = names }, Reader)
  while self.list[self.i] do
    self:block()
    self.i = self.i + 1
  end
  while self.scopes[1] do self:close() end
  for _, text in ipairs(require("cli.policy_examples").notes(pol)) do self:say({ at = 1 }, text:find("`rule show`", 1, true) and "counters" or "examples", text) end
  for _, ex in ipairs(pol.kind == "rule" and pol.counters and pol.examples or {}) do
    local rows, why = require("policy").counters(pol, require("config").freeze(require("policy").view(pol, ex.rule or {})), require("sandbox").call)
    if not rows then
      self:say({ at = 1 }, "counters", why)
      break
    end
  end
  if pol.kind == "type" then
    local line = comparisons.find(source, comparisons.fields(pol))
    for _, t in ipairs(line and self.list or {}) do
      if t.line == line and (equal[t.kind] or orders[t.kind]) then
        self:say(t, "never", "a secret is compared with a text: it is a handle, and no handle equals one")
        break
      end
    end
  end
  for _, f in ipairs(self.found) do f.line, f.column = place(source, f.at) end
  table.sort(self.found, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.code < b.code
  end)
  local out = {}
  for i, f in ipairs(self.found) do out[i] = { line = f.line, column = f.column, code = f.code, text = f.text } end
  return out
end

M.blows_up = blows_up

return M
