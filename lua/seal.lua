--- Secrets that an API hands out, and that its answer holds as sealed texts: which calls, which members, where such a text
-- opens. A type or a preset lists them as rows; the texts themselves are made and opened in C (proxy.c, seal).
--   method, host, path, query   the call, as in the rows of lua/mint.lua
--   challenge  "/v2/": the call is the one that this host names where this path is asked for with nothing: 401, and in
--              WWW-Authenticate the realm of Bearer. Only where the credential covers that path, too. With a query alone
--   what       what it makes, for messages
--   members    what of the answer is a secret. All of them are in a 2xx; of an inner list, one at least:
--                "token", "data/token", "items/*/key", "json=/a/b"   a JSON path; "*" stands for each element of a list
--                "form=NAME", "header=NAME", "cookie=NAME"
--   optional   the same, where the answer may lack them
--   ttl        where the answer says how long the secret lives: a JSON path, form=NAME or header=NAME; or a number, in s
--   opens      where a request may bear the text: "authorization" (alone, where it is absent), "header=NAME", "query=NAME",
--              "form=NAME", "json=/a/b"
--   hosts      where it opens beside the credential's own hosts: exact or "*.example.com"
--   shape      "jwt": header and claims stay; prefix: what the text begins with
--   expired    401: what it is refused with after its end, where clients of that API ask for another then alone; else 403
--   default    true: sealed although the rows of `mint` have the call, too, and nobody said mint=seal
local mint = require "mint"
local M = {}

M.TTL = 3600            -- s that a secret lives whose answer does not say
local MEMBERS_MAX = 15  -- of a row, beside its ttl
local MET_MAX = 4       -- rows that a request may meet: C takes 64 members
local DEPTH_MAX = 8     -- segments of a JSON path
local NAME_MAX = 128    -- bytes of a name
local HOSTS_MAX = 32

local keys = {
  method = "string table", host = "string", path = "string", query = "table", challenge = "string", what = "string", members = "table", optional = "table",
  ttl = "string integer", opens = "table", hosts = "table", shape = "string", prefix = "string", default = "boolean", expired = "integer",
}
M.keys = keys

-- ---- compiling -----------------------------------------------------------------------------------

-- "a/*/b" or "/a/*/b" as C has it, a NUL behind each step; "~1" is a slash in a name, "~0" a tilde (RFC 6901). nil: it is none.
local function json_path(text, stars)
  local path = {}
  for segment in (text:sub(1, 1) == "/" and text or "/" .. text):gmatch("/([^/]*)") do
    if segment == "" or #segment > NAME_MAX or segment:find("%c") or segment:find("~[^01]") or segment:find("~$") then return nil end
    if segment ~= "*" and segment:find("*", 1, true) or segment == "*" and not stars then return nil end
    path[#path + 1] = segment:gsub("~1", "/"):gsub("~0", "~")
  end
  return #path <= DEPTH_MAX and path[1] ~= nil and table.concat(path, "\0") .. "\0" or nil
end

local function field_name(name)
  local lower, why = require("records").header_name(name)
  if lower == "set-cookie" then return nil, "is a cookie: cookie=NAME" end
  return lower, why and "has no name of a header that an answer gives"
end

local function plain_name(name)
  return #name <= NAME_MAX and name:find("^[^%c%s&=;,]+$") and name or nil, "has no name"
end

local kinds = {
  json = function(text, stars) return json_path(text, stars), "is no JSON path: token, data/token, items/*/token" end,
  header = field_name, cookie = plain_name, form = plain_name, query = plain_name,
}

-- "header=X-Token" -> { "header", "x-token" }; without a kind, or with "json=", a JSON path.
local function compile_place(text, allowed, stars)
  if type(text) ~= "string" or text == "" then return nil, "is no text" end
  local kind, name = text:match("^(%a+)=(.*)$")
  if not kind then kind, name = "json", text end
  if not allowed[kind] then return nil, ("has no kind '%s': there is %s"):format(kind, allowed.said) end
  local compiled, why = kinds[kind](name, stars)
  if not compiled then return nil, why end
  return { kind, compiled }
end

-- A list, checked to be one: each item goes through compile(item). nil, why
local function compile_list(given, what, most, compile)
  if type(given) ~= "table" or #given == 0 then return nil, ("has %s that are no list"):format(what) end
  local out = {}
  for i, item in ipairs(given) do
    local ok, why = compile(item)
    if not ok then return nil, ("has %s of which '%s' %s"):format(what, tostring(item):sub(1, 60), why) end
    out[i] = ok
  end
  for k in pairs(given) do
    if math.type(k) ~= "integer" or k < 1 or k > #out then return nil, ("has %s that are no list"):format(what) end
  end
  if #out > most then return nil, ("has more than %d %s"):format(most, what) end
  return out
end

local of_answer = { json = true, form = true, header = true, cookie = true, said = "a JSON path, form=, header= and cookie=" }
local of_end = { json = true, form = true, header = true, said = "a JSON path, form= and header=" }
local of_request = { header = true, query = true, form = true, json = true,
  said = "authorization, header=, query=, form= and json=" }

local function member(text) return compile_place(text, of_answer, true) end

-- Each with the group of which one at least is there; nil: it may lack.
local function compile_members(given, optional)
  local out, why = {}, nil
  if given == nil then return nil, "does not say which members of the answer are secret (members)" end
  local groups
  groups, why = compile_list(given, "members", MEMBERS_MAX, function(item)
    if type(item) == "table" then return compile_list(item, "alternatives", MEMBERS_MAX, member) end
    local one, wrong = member(item)
    return one and { one }, wrong
  end)
  if not groups then return nil, why, "members" end
  for group, list in ipairs(groups) do
    for _, m in ipairs(list) do out[#out + 1] = { m[1], m[2], group = group } end
  end
  local more = {}
  if optional ~= nil then more, why = compile_list(optional, "optional members", MEMBERS_MAX, member) end
  if not more then return nil, why, "optional" end
  table.move(more, 1, #more, #out + 1, out)
  if #out > MEMBERS_MAX then return nil, ("has more than %d members"):format(MEMBERS_MAX), "members" end
  return out
end

local function compile_ttl(given)
  if given == nil then return nil end
  if math.type(given) == "integer" and given > 0 and given <= 366 * 86400 then return given end
  if type(given) ~= "string" then return nil, "has a ttl that is no member of the answer, and no number of seconds" end
  local place, why = compile_place(given, of_end, false)
  return place, why and "has a ttl that " .. why
end

local function opening(text)
  if type(text) == "string" and (text == "authorization" or text:lower() == "header=authorization") then
    return { "header", "authorization" }
  end
  if type(text) == "string" and not text:find("=", 1, true) then return nil, "is no place: there is " .. of_request.said end
  return compile_place(text, of_request, false)
end

-- As a credential's hosts: a text each.
local function host_text(given)
  local host = mint.compile_host(given)
  if not host then return nil, "is no host" end
  return (host.below and "*." or "") .. host.name
end

-- What a sealed text names its row by: it stays while the call does. 31 bits; two rows of one list must differ.
local function id_of(row)
  local methods = {}
  for m in pairs(row.methods or {}) do methods[#methods + 1] = m end
  table.sort(methods)
  local host = row.host and (row.host.below and "*." or "") .. row.host.name or ""
  local hex = require("host").sha256_hex(table.concat({ table.concat(methods, ","), host, row.path }, "\n"))
  return tonumber(hex:sub(1, 8), 16) & 0x7fffffff
end

local function compile_row(given)
  if type(given) ~= "table" then return nil, "is not a table" end
  for k in pairs(given) do
    if not keys[k] then return nil, ("has no key '%s'%s"):format(tostring(k), require("policy").meant(k, keys)), k end
  end
  local row, why, key = { default = given.default }, nil, nil
  if given.what ~= nil and (type(given.what) ~= "string" or given.what == "") then return nil, "has a `what` that is no text", "what" end
  row.what = given.what or "a further credential"
  row.methods, why = mint.compile_methods(given.method)
  if why then return nil, why, "method" end
  row.host, why = mint.compile_host(given.host)
  if why then return nil, why, "host" end
  row.path, why = mint.check_path(given.path)
  if why then return nil, why, "path" end
  row.query, why = mint.compile_query(given.query)
  if why then return nil, why, "query" end
  row.challenge, why = given.challenge, given.challenge ~= nil and select(2, mint.check_path(given.challenge))
  if why or row.challenge and not row.query then return nil, why or "has a challenge, and no query that says when it is asked for", "challenge" end
  row.members, why, key = compile_members(given.members, given.optional)
  if why then return nil, why, key end
  row.ttl, why = compile_ttl(given.ttl)
  if why then return nil, why, "ttl" end
  row.opens = { { "header", "authorization" } }
  if given.opens ~= nil then row.opens, why = compile_list(given.opens, "places (opens)", MEMBERS_MAX, opening) end
  if why then return nil, why, "opens" end
  row.hosts = {}
  if given.hosts ~= nil then row.hosts, why = compile_list(given.hosts, "hosts", HOSTS_MAX, host_text) end
  if why then return nil, why, "hosts" end
  if given.shape ~= nil and given.shape ~= "jwt" then return nil, "has a shape that is not \"jwt\"", "shape" end
  if given.prefix ~= nil and (type(given.prefix) ~= "string" or not given.prefix:find("^[%w_.-]+$") or #given.prefix > 32) then
    return nil, "has a prefix that is not up to 32 letters, digits, '_', '-' and '.'", "prefix"
  end
  if given.shape and given.prefix then return nil, "has a shape and a prefix: one of them", "prefix" end
  if given.default ~= nil and type(given.default) ~= "boolean" then return nil, "has a default that is not true or false", "default" end
  if given.expired ~= nil and given.expired ~= 401 then return nil, "has an expired that is not 401", "expired" end
  row.expired = given.expired
  row.shape, row.prefix, row.id = given.shape, given.prefix, id_of(row)
  for _, place in ipairs(row.opens) do
    if place[1] == "form" or place[1] == "json" then row.bodies = row.bodies or {}; row.bodies[place[1]] = true end
  end
  local methods = type(given.method) == "table" and table.concat(given.method, ", ") or given.method
  row.given = { method = methods, host = given.host, path = given.path }  -- for people to read
  return row
end

--- Rows as the pipeline wants them; copies, so that nothing a script does later changes them. As mint.compile_rows answers.
function M.compile(given)
  local seen = {}
  return mint.compile_rows(given, function(given_row, i)
    local row, why, key = compile_row(given_row)
    if not row then return nil, why, key end
    if seen[row.id] then return nil, ("is the same call as row %d"):format(seen[row.id]), "path" end
    seen[row.id] = i
    return row
  end)
end

-- ---- asking --------------------------------------------------------------------------------------

--- The rows of a credential: those of its preset first, then its type's. nil: there are none.
function M.rows_of(pol, preset)
  local out, seen = {}, {}
  for _, list in ipairs { preset and preset.seal or {}, pol.seal or {} } do
    for _, row in ipairs(list) do
      if not seen[row.id] then out[#out + 1] = row end
      seen[row.id] = true
    end
  end
  return out[1] and out or nil
end

--- The one that a sealed text names.
function M.by_id(rows, id)
  for _, row in ipairs(rows or {}) do
    if row.id == id then return row end
  end
end

-- ---- the text (its layout stands in proxy.c, seal) ----------------------------------------------

M.MARK = "Sp5eaL"
M.MOST = 4              -- of a request
local HEAD = ">I1I1I2I1c24c16c16I4I4"
local CODE_MIN = 114    -- letters of a text in which nothing is
local MARKS_MAX = 100   -- in a value, that begin no text: more are not looked at, and it passes as it is
M.BODY_MAX = 1 << 20   -- bytes of a body that is looked into

local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

--- seal.read(s, from) -> { text =, kept =, agent =, credential =, ends =, row =, shape = }, behind it | nil. The first sealed
-- text in a string, as it reads: nothing is opened. kept: what stands before the mark; agent, credential: ids; ends: Unix s.
function M.read(s, from)
  local decode = require("secret").decode
  from = from or 1
  for _ = 1, MARKS_MAX do
    local at = s:find(M.MARK, from, true)
    if not at then return nil end
    -- The letters are counted where a head stands before them alone: a text may be nothing but marks.
    local code = s:sub(at + 6, at + 97)
    local head = #code == 92 and not code:find("[^%w_-]") and decode("base64url", code)
    if head then
      local version, shape, kept, _, _, agent, credential, ends, row = HEAD:unpack(head)
      local to = version == 1 and shape <= 1 and kept < at and select(2, s:find("^[%w_-]+", at + 6)) or 0
      if to - at - 5 >= CODE_MIN then
        return { text = s:sub(at - kept, to), kept = s:sub(at - kept, at - 1), agent = hex(agent), credential = hex(credential),
          ends = ends, row = row, shape = shape == 1 and "jwt" or "opaque" }, to + 1
      end
    end
    from = at + 6
  end
end

-- The member that the steps of a path lead to | nil
local function member_of(value, path)
  for step in path:gmatch("([^%z]+)%z") do
    if type(value) ~= "table" then return nil end
    value = value[step] or math.tointeger(step) and value[math.tointeger(step) + 1]
  end
  return value
end

-- What is the key in a field's value: behind the scheme (a token, RFC 9110 11.4), and perhaps the name of its one parameter; of
-- Authorization either half of Basic, too. A key of the agent's own beside it would ride along.
local function keys_in(value, out, name)
  local basic = name == "authorization" and value:match("^[Bb][Aa][Ss][Ii][Cc] (.*)$")
  basic = basic and require("secret").decode("base64", basic)
  if basic then
    table.move({ basic:match("^([^:]*):?(.*)$") }, 1, 2, #out + 1, out)
  else
    value = value:match("^[%w!#$%%&'*+.^_`|~-]+ +(.*)$") or value
    out[#out + 1] = value:match('^[%w_-]+="?([^"]*)"?$') or value
  end
end

-- The values of cookies (RFC 6265 4.2.1): a browser sends all it has, so others stand beside a text. What comes twice of one name
-- counts as one value, so that no text is all of it: servers take either.
local function cookies_in(lines, out)
  local at = {}
  for pair in table.concat(lines, ";"):gmatch("[^;]+") do
    local name, value = pair:match("^%s*([^=]-)%s*=%s*(.-)%s*$")
    if not name then name, value = "", pair end
    value = value:match('^"(.*)"$') or value
    if at[name] then out[at[name]] = out[at[name]] .. ";" .. value else out[#out + 1], at[name] = value, #out + 1 end
  end
end

-- The values that a request has in a place, and whether it has that place once.
local function values_in(req, view, place)
  local kind, name, out = place[1], place[2], {}
  local of = kind ~= "header" and kind ~= "query" and require("body").of(view.headers) or {}
  local text = req.has_body and not of.why and view.body or ""     -- in UTF-7 or EBCDIC a server reads other names
  if kind == "header" then
    local lines = {}
    repeat lines[#lines + 1] = view.headers:get(name, #lines + 1) until not view.headers:get(name, #lines + 1)
    if name == "cookie" then cookies_in(lines, out) return out, true end
    for _, line in ipairs(lines) do keys_in(line, out, name) end
    return out, #lines == 1
  elseif kind == "query" or kind == "form" and of.form and #text <= M.BODY_MAX then
    for _, pair in ipairs(require("uri").parse_query(kind == "query" and req.query or text) or {}) do
      if pair[1] == name then out[#out + 1] = pair[2] end
    end
  elseif kind == "json" and req:text_kind() == "json" and #text <= M.BODY_MAX then
    local json = require "json"
    local whole = json.decode(text)
    if whole ~= nil then return { member_of(whole, name) }, true end
    for line in text:gmatch("[^\n]+") do out[#out + 1] = member_of(json.decode(line), name) end
    return out, true
  end
  return out, #out == 1
end

--- seal.find(req, places) -> { M.read's, with place = index, alone = bool… } | nil: there are more than 4. The texts that stand
-- in these places; bodies once they were read, up to 1 MiB. alone: nothing else stands in the value, and no other value of that
-- name: what a server may read otherwise gets no secret. Before strip.
function M.find(req, places)
  local view, out = req:view(), {}
  for i, place in ipairs(places) do
    local values, once = values_in(req, view, place)
    for _, value in ipairs(values) do
      local text, behind
      if type(value) == "string" then text, behind = M.read(value) end
      while text do
        if #out == M.MOST then return nil end
        text.place, text.alone, out[#out + 1] = i, once and text.text == value, text
        text, behind = M.read(value, behind)
      end
    end
  end
  return out
end

--- Does a text of this row (nil: nobody knows it any more) open at this place, one of those that `opens` lists?
function M.opens(row, at)
  for _, place in ipairs(row and row.opens or { { "header", "authorization" } }) do
    if place[1] == at[1] and place[2] == at[2] then return true end
  end
  return false
end

--- For people: "POST /token on auth.example.com".
function M.call(row)
  return ("%s %s%s"):format(row.given.method or "any", row.given.path, row.given.host and " on " .. row.given.host or "")
end

--- Which bodies these rows look into: { form = true, json = true } | nil.
function M.bodies(rows)
  local out
  for _, row in ipairs(rows or {}) do
    for kind in pairs(row.bodies or {}) do out = out or {}; out[kind] = true end
  end
  return out
end

--- Those of the rows that hold where the host's challenge names the call alone, and whose query this is.
function M.challenged(rows, query)
  local out = {}
  for _, row in ipairs(query and rows or {}) do
    if row.challenge and mint.covers_query(row, query) then out[#out + 1] = row end
  end
  return out
end

--- What becomes of a request: "seal", the rows it may meet | "refuse", what it would make | nil.
-- mode: the credential's mint; `makes`: what the rows of `mint` say of it, or nil. q as mint.find has it, and realms: those
-- rows with a challenge of which the call is the realm.
function M.judge(rows, mode, q, makes)
  local met = {}
  for _, row in ipairs(rows and mode ~= "allow" and mint.met(rows, q) or {}) do
    if not row.challenge or q.realms and q.realms[row] then met[#met + 1] = row end
  end
  if not met[1] then return makes and "refuse" or nil, makes end
  if mode == "refuse" or q.websocket or #met > MET_MAX then return "refuse", makes or met[1].what end
  if not makes then return "seal", met end
  local wanted = {}     -- those that stand against a row of `mint`
  for _, row in ipairs(met) do
    if mode == "seal" or row.default then wanted[#wanted + 1] = row end
  end
  if wanted[1] and mint.surely(wanted, q) then return "seal", met end
  return "refuse", makes
end

--- What C is told of an answer to a request that may meet these rows: members as req:seal has them, and the seconds that a
-- secret lives whose answer does not say. A row that is surely met says what must be there; what the others have is sealed
-- where it is. places: request.places.
function M.members(rows, q, places)
  local out, sure, usual = {}, rows[1], M.TTL
  for _, row in ipairs(rows) do
    if mint.surely({ row }, q) then sure = row break end
  end
  for _, row in ipairs(rows) do
    for _, m in ipairs(row.members) do
      out[#out + 1] = { row.prefix or "", nil, places[m[1]], m[2], row.id, row == sure and m.group or 0, false, row.shape == "jwt" }
    end
    if type(row.ttl) == "table" then out[#out + 1] = { "", nil, places[row.ttl[1]], row.ttl[2], row.id, 0, true } end
    if type(row.ttl) == "number" then usual = math.min(usual, row.ttl) end
  end
  if type(sure.ttl) == "number" and not rows[2] then usual = sure.ttl end
  return out, usual
end

return M
