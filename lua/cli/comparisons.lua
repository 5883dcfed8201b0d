--- Comparisons of a secret with a text, in a policy's source.
-- A secret is a handle, and Lua asks nobody when values of two types are compared: `cred.key == "hunter2"` is false,
-- always. Whoever wrote that has a secret in the policy's text, or a branch that is never taken. So it is looked for in
-- the tokens: what is plainly a secret (a field that is one, what methods and builders make of it, a local that was set
-- to it and nothing else) beside what is plainly a text or a number. What is less plain passes, and stays false.
local M = {}

-- ---- tokens: { text or kind, line, value } ---------------------------------------------------------

local function long_close(source, at)
  local level = source:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, e = source:find("]" .. level .. "]", at, true)
  return e or #source
end

local function number_end(source, at)
  local _, e = source:find("^0[xX][%x.]+", at)
  local exponent = e and "^[pP][+-]?%d+" or "^[eE][+-]?%d+"
  if not e then _, e = source:find("^[%d.]+", at) end
  return select(2, source:find(exponent, e + 1)) or e
end

local function tokens(source)
  local out, at, line, counted = {}, 1, 1, 1
  local function line_of(to)
    for _ in source:sub(counted, to - 1):gmatch("\n") do line = line + 1 end
    counted = to
    return line
  end
  local function add(kind, e, value)
    out[#out + 1] = { kind = kind, line = line_of(at), value = value, at = at }
    at = e + 1
  end
  while true do
    at = source:find("%S", at)
    if not at then return out end
    local c, two = source:sub(at, at), source:sub(at, at + 1)
    if two == "--" then
      at = (long_close(source, at + 2) or (source:find("\n", at, true) or #source)) + 1
    elseif c == '"' or c == "'" then
      local e = at + 1
      while e <= #source and source:sub(e, e) ~= c do e = e + (source:sub(e, e) == "\\" and 2 or 1) end
      add("<text>", e, source:sub(at + 1, e - 1))
    elseif long_close(source, at) then
      local _, text = source:match("^%[(=*)%[\r?\n?(.-)%]%1%]", at)
      add("<text>", long_close(source, at), text)
    elseif source:find("^%.?%d", at) then
      local e = number_end(source, at)
      add("<number>", e, source:sub(at, e))
    elseif source:find("^[%a_]", at) then
      local _, e, name = source:find("^([%w_]+)", at)
      add(name, e, name)
    elseif source:find("^%.%.%.", at) then
      add("...", at + 2)
    elseif two == "==" or two == "~=" or two == "<=" or two == ">=" or two == ".." or two == "//" or two == "::" or two == "<<" or two == ">>" then
      add(two, at + 1)
    else
      add(c, at)
    end
  end
end

--- A source's tokens: { kind =, value =, line =, at = byte } each; a name's kind is the name, a text's "<text>", a number's "<number>".
M.tokens = tokens

-- ---- what an expression is -----------------------------------------------------------------------

local compares = { ["=="] = true, ["~="] = true, ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }
local opens, closes = { ["("] = ")", ["["] = "]", ["{"] = "}" }, { [")"] = true, ["]"] = true, ["}"] = true }
local keywords = {}
for word in ("and break do else elseif end false for function goto if in local nil not or repeat return then true until while"):gmatch("%a+") do
  keywords[word] = true
end

-- What these make of a secret is one.
local builders = {}
for word in ([[secret.base64 secret.base64url secret.hex secret.percent secret.form secret.json_string secret.sha256
  secret.hmac secret.decode sign.sha256 sign.digest sign.hmac sign.signature sign.jwt json json.build form form.encode
  uri.query]]):gmatch("%S+") do
  builders[word] = true
end

M.keywords = keywords

local function is_name(t) return t and t.value and t.kind == t.value and not keywords[t.kind] end

-- From an opening bracket to behind its closing one.
local function behind(list, i)
  local depth = 0
  repeat
    local kind = list[i] and list[i].kind
    if not kind then return i end
    if opens[kind] then depth = depth + 1 elseif closes[kind] then depth = depth - 1 end
    i = i + 1
  until depth == 0
  return i
end

local Reader = {}
Reader.__index = Reader

-- A step into a secret's surroundings: `cred` is "cred", its fields what the policy says.
function Reader:member(of, name)
  if of == "cred" then return self.fields[name] end
  return type(of) == "table" and (of[name] or of["*"]) or nil
end

function Reader:kind_of(name)
  for i = #self.scopes, 1, -1 do
    local kind = self.scopes[i][name]
    if kind ~= nil then return kind end
  end
end

-- One operand from i on, without what binds less than `..`: its kind ("secret", "plain": texts and numbers alone, "cred",
-- a table of members, or nil), and where it ends.
function Reader:primary(i)
  local list = self.list
  local t = list[i]
  if not t then return nil, i end
  if t.kind == "<text>" or t.kind == "<number>" then return "plain", i + 1 end
  local kind, name
  if t.kind == "(" then
    local inner
    kind, inner = self:operand(i + 1)
    i = behind(list, i)
    if inner ~= i - 1 then kind = nil end
  elseif t.kind == "{" then
    return nil, behind(list, i)
  elseif is_name(t) then
    kind, name, i = self:kind_of(t.value), t.value, i + 1
  else
    return nil, i + 1
  end
  while list[i] do
    local k = list[i].kind
    if k == "." and is_name(list[i + 1]) then
      kind, name, i = self:member(kind, list[i + 1].value), name and name .. "." .. list[i + 1].value, i + 2
    elseif k == "[" then
      local at = list[i + 1]
      local e = behind(list, i)
      local text = at and at.kind == "<text>" and e == i + 3 and at.value
      kind, name, i = self:member(kind, text or ""), nil, e
    elseif k == ":" and is_name(list[i + 1]) then
      i = i + 2                       -- what a method makes of a secret is one
      if kind ~= "secret" then kind = nil end
      i = list[i] and (opens[list[i].kind] and behind(list, i) or list[i].kind == "<text>" and i + 1) or i
      name = nil
    elseif (k == "(" or k == "{") and (name or kind) then
      local e = behind(list, i)
      kind = name and builders[name] and self:holds_secret(i + 1, e - 1) and "secret" or nil
      name, i = nil, e
    elseif k == "<text>" and name then
      kind, name, i = nil, nil, i + 1
    else
      break
    end
  end
  return kind, i
end

function Reader:holds_secret(from, to)
  local i = from
  while i < to do
    if is_name(self.list[i]) and (self.list[i - 1] or {}).kind ~= "." then
      local kind, e = self:primary(i)
      if kind == "secret" then return true end
      i = math.max(e, i + 1)
    else
      i = i + 1
    end
  end
  return false
end

-- A chain of `..`.
function Reader:operand(i)
  local kind, e = self:primary(i)
  while self.list[e] and self.list[e].kind == ".." do
    local more
    more, e = self:primary(e + 1)
    if kind == "secret" or more == "secret" then kind = "secret" elseif more ~= "plain" then kind = nil end
  end
  return kind, e
end

-- ---- statements ----------------------------------------------------------------------------------

local takes_cred = { apply = 2, body = 2, mint = 2, strip = 1, refresh = 1, validate = 1, connect = 1, rows = 1 }

function Reader:open() self.scopes[#self.scopes + 1] = {} end
function Reader:close() if #self.scopes > 1 then self.scopes[#self.scopes] = nil end end

-- function NAME(a, b) or name = function(a, b), from `function` on: behind the parameters.
function Reader:parameters(i)
  local list, field = self.list, nil
  if list[i - 1] and list[i - 1].kind == "=" and is_name(list[i - 2]) then field = list[i - 2].value end
  if is_name(list[i + 1]) then field = list[i + 1].value end
  if is_name(list[i + 1]) and (list[i - 1] or {}).kind == "local" then self.scopes[#self.scopes][list[i + 1].value] = false end
  i = i + 1
  while list[i] and list[i].kind ~= "(" do i = i + 1 end
  self:open()
  local n, scope = 0, self.scopes[#self.scopes]
  i = i + 1
  while list[i] and list[i].kind ~= ")" do
    if is_name(list[i]) then
      n = n + 1
      scope[list[i].value] = (list[i].value == "cred" or takes_cred[field] == n) and "cred" or false
    end
    i = i + 1
  end
  return i + 1
end

-- Whether an expression ends there: nothing follows that would make it another.
local function ends(t)
  return not t or t.kind == "," or t.kind == ";" or closes[t.kind] or is_name(t) or
    (keywords[t.kind] and t.kind ~= "and" and t.kind ~= "or")
end

-- `names = values` whose first value begins at i: what each name is from then on.
function Reader:assign(names, i, scope)
  local kinds = {}
  for n = 1, #names do
    if not i then break end
    local kind, e = self:operand(i)
    if kind and ends(self.list[e]) then kinds[n] = kind end
    i = self.list[e] and self.list[e].kind == "," and e + 1 or nil
  end
  for n, name in ipairs(names) do
    local kind, here = kinds[n] or false, self.scopes[#self.scopes]
    -- Set in a block that may not run, or later, it is that within the block alone; behind it nobody knows.
    for at = 1, scope and 0 or #self.scopes - 1 do
      if self.scopes[at][name] ~= kind and self.scopes[at][name] ~= nil then self.scopes[at][name] = false end
    end
    here[name] = kind
  end
end

local function name_list(list, i)
  local names = {}
  while is_name(list[i]) do
    names[#names + 1] = list[i].value
    i = i + 1
    if list[i] and list[i].kind == "<" and list[i + 2] and list[i + 2].kind == ">" then i = i + 3 end   -- <const>
    if not list[i] or list[i].kind ~= "," then break end
    i = i + 1
  end
  return names, i
end

-- The operand that ends before i: tried from each place where one may begin, the longest first.
function Reader:operand_before(i)
  local list, depth, kind = self.list, 0, nil
  for from = i - 1, math.max(1, i - 64), -1 do
    local k = list[from].kind
    if closes[k] then depth = depth + 1 elseif opens[k] then depth = depth - 1 end
    if depth < 0 or (depth == 0 and (keywords[k] or compares[k] or k == "=" or k == "," or k == ";")) then break end
    if depth == 0 then
      local found, e = self:operand(from)
      local before = (list[from - 1] or {}).kind
      if e == i and before ~= "." and before ~= ":" then kind = found end
    end
  end
  return kind
end

local within = { ["{"] = true, [","] = true, [";"] = true, ["."] = true }   -- before a name with `=` that is no statement
local begins = { ["do"] = true, ["then"] = true, ["repeat"] = true }

--- The line of the first comparison of a secret with a text or number | nil. `fields`: name -> "secret", or a table of
-- its members ("*": all of them).
function M.find(source, fields)
  local list = tokens(source)
  local self = setmetatable({ list = list, fields = fields, scopes = { {} } }, Reader)
  local i = 1
  while i <= #list do
    local t = list[i]
    local next_i = i + 1
    if t.kind == "function" then
      next_i = self:parameters(i)
    elseif begins[t.kind] then
      self:open()
    elseif t.kind == "else" or t.kind == "elseif" then
      self:close()
      if t.kind == "else" then self:open() end
    elseif t.kind == "end" or t.kind == "until" then
      self:close()
    elseif t.kind == "local" and is_name(list[i + 1]) then
      local names, e = name_list(list, i + 1)
      local scope = self.scopes[#self.scopes]
      if list[e] and list[e].kind == "=" then
        self:assign(names, e + 1, scope)
        next_i = e + 1
      else
        for _, name in ipairs(names) do scope[name] = false end
        next_i = e
      end
    elseif t.kind == "for" then
      local names = name_list(list, i + 1)
      for _, name in ipairs(names) do self.scopes[#self.scopes][name] = false end
    elseif is_name(t) and list[i + 1] and list[i + 1].kind == "=" and not within[(list[i - 1] or {}).kind] and
        self:kind_of(t.value) ~= nil then
      self:assign({ t.value }, i + 2)
      next_i = i + 2
    elseif compares[t.kind] then
      local left, right = self:operand_before(i), self:operand(i + 1)
      if left == "secret" and right == "plain" or left == "plain" and right == "secret" then return t.line end
    end
    i = next_i
  end
end

-- `secrets = { access_token = …` in what refresh returns: those are the state's.
local function state_of(source)
  local out = { access_token = "secret", refresh_token = "secret", id_token = "secret" }
  local list = tokens(source)
  for i = 1, #list - 2 do
    if list[i].value == "secrets" and list[i + 1].kind == "=" and list[i + 2].kind == "{" then
      local at, e = i + 3, behind(list, i + 2)
      while at < e do
        if is_name(list[at]) and list[at + 1].kind == "=" then out[list[at].value] = "secret" end
        at = opens[list[at].kind] and behind(list, at) or at + 1
      end
    end
  end
  return out
end

--- What `find` asks of a policy of kind type.
function M.fields(pol)
  local out = { state = state_of(pol.source) }
  for _, f in ipairs(pol.fields or {}) do
    if f.secret and f.type ~= "map" then out[f.name] = "secret" end
    if f.secret and f.type == "map" then out[f.name] = { ["*"] = "secret" } end
    if f.split then
      out[f.name] = {}
      for member, spec in pairs(f.split) do out[f.name][member] = spec.secret and "secret" or nil end
    end
  end
  return out
end

return M
