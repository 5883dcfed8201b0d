--- What rows of `seal` would make of a call and of its answer, told without a value: for `policy try` and the examples of a type.
-- The server seals in C (proxy.c, seal); here its rules are read once more, for people.
local json = require "json"
local seal = require "seal"
local M = {}

local ANSWER_MAX = 1 << 20      -- bytes, as the server takes them
local RELATIVE_MAX, MS_MIN = 315360000, 100000000000    -- proxy.c: a larger number is a time; and one in milliseconds
local NUMBER_MAX = 1e15         -- and a number over it says nothing
local SIGNATURE_MIN = 32        -- bytes of a JWT's signature that is sealed alone
local SIGNS = { HS256 = true, HS384 = true, HS512 = true, RS256 = true, RS384 = true, RS512 = true, ES256 = true, ES384 = true, ES512 = true,
  PS256 = true, PS384 = true, PS512 = true, EdDSA = true, ES256K = true, Ed25519 = true, Ed448 = true }

M.keys = { status = "integer", headers = "table", body = "string table" }
M.MAX = ANSWER_MAX

--- A place of a row as its author wrote it: token, items/*/key, header=x-token, authorization.
function M.place(place, opens)
  local kind, name = place[1], place[2]
  if kind == "json" then
    name = name:gsub("~", "~0"):gsub("/", "~1"):gsub("%z$", ""):gsub("%z", "/")
    return opens and "json=/" .. name or name
  end
  return opens and name == "authorization" and name or kind .. "=" .. name
end

-- The call, as the rows ask about it. r: { method, url, headers, body }
local function question(r)
  local url, body, kind = require("http").parse_url(r.url), r.body or "", nil
  local req = require("example").request { method = r.method, url = r.url, headers = r.headers or {}, body = r.body }
  local view = req:view()
  kind = view.headers:get("content-type")
  return { method = r.method, websocket = false, host = url.host, query = url.query,
    readings = function() return require("paths").ways(url.path) end, kind = function() return kind end,
    body = function() return body, require("body").hidden(require("body").of(view.headers), body) end }
end

--- What becomes of the answer to the request r = { method, url, headers, body }: "seal", rows | "refuse", what it would make | nil: it goes on
-- as it is. rows: of seal.rows_of; mode: the credential's mint | nil; makes: what the rows of `mint` say of it | nil. A row with a challenge
-- is taken to be the one that the host names.
function M.judge(rows, mode, r, makes)
  if not rows then return makes and "refuse" or nil, makes end
  local q = question(r)
  q.realms = {}
  for _, row in ipairs(seal.challenged(rows, q.query)) do q.realms[row] = true end
  return seal.judge(rows, mode, q, makes)
end

--- A row in words: { call =, what =, members = {…}, optional = {…}, ttl =, opens = {…}, hosts = {…}, shape =, prefix =, challenge = }
function M.told(row)
  local out = { call = seal.call(row), what = row.what, members = {}, optional = {}, opens = {}, hosts = table.move(row.hosts, 1, #row.hosts, 1, {}),
    shape = row.shape, prefix = row.prefix, challenge = row.challenge }
  for _, m in ipairs(row.members) do
    local list, i = m.group and out.members or out.optional, m.group or #out.optional + 1
    list[i] = list[i] and list[i] .. " or " .. M.place(m) or M.place(m)        -- of a group one is enough
  end
  for i, place in ipairs(row.opens) do out.opens[i] = M.place(place, true) end
  out.ttl = type(row.ttl) == "number" and row.ttl or row.ttl and M.place(row.ttl) or nil
  return out
end

--- The row whose texts could never be opened, for the credential goes over plain HTTP, too; and whose it is | nil
function M.in_the_clear(pol, rec)
  if not rec.plain_http or rec.mint == "allow" or rec.mint == "refuse" then return nil end
  for _, row in ipairs(seal.rows_of(pol, rec.preset and require("presets").get(rec.preset)) or {}) do
    if not row.challenge then return row, rec.preset or rec.type end     -- a host is asked for its challenge over TLS alone
  end
end

-- ---- an answer -----------------------------------------------------------------------------------

--- What `curl -i` shows, or a body alone: { status, headers = { { name, value } … }, body }; nil, why
function M.parse(text)
  if not text:find("^HTTP/") then return { status = 200, headers = {}, body = text } end
  local head, body = text:match("^(.-\n)\r?\n(.*)$")
  local out = { status = math.tointeger(tonumber((head or ""):match("^HTTP/[%d.]+ (%d%d%d)"))), headers = {}, body = body }
  if not out.status then return nil, "its head is none of HTTP's" end
  for line in head:gsub("^[^\n]*\n", ""):gmatch("([^\r\n]+)\r?\n") do
    local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
    if not name then return nil, "its head is none of HTTP's" end
    out.headers[#out.headers + 1] = { name:lower(), value }
  end
  return out
end

local function add(out, name, value) out[#out + 1] = { name = name, value = value } end

-- The values that a path leads to, each with its own path; "*" stands for each element of a list.
local function walk(value, steps, i, at, out)
  if i > #steps then return add(out, table.concat(at, "/"), value) end
  if type(value) ~= "table" then return end
  local step, is_list = steps[i], getmetatable(value) == "json.array"
  if step == "*" and is_list then
    for n, item in ipairs(value) do
      at[i] = tostring(n - 1)
      walk(item, steps, i + 1, at, out)
    end
  elseif step ~= "*" and not is_list and value[step] ~= nil then
    at[i] = step
    walk(value[step], steps, i + 1, at, out)
  end
  at[i] = nil
end

-- The values of a member: { { name =, value = } … }
local function found_in(place, a)
  local kind, name, out = place[1], place[2], {}
  if kind == "json" then
    local steps = {}
    for step in name:gmatch("([^%z]+)%z") do steps[#steps + 1] = step end
    if a.json ~= nil then walk(a.json, steps, 1, {}, out) end
  elseif kind == "form" then
    for _, pair in ipairs(a.json == nil and require("uri").parse_query(a.body) or {}) do
      if pair[1] == name then add(out, "form=" .. name, pair[2]) end
    end
  else
    for _, h in ipairs(a.headers) do
      if kind == "header" and h[1] == name then add(out, "header=" .. name, h[2]) end
      local cookie, value = h[2]:match("^%s*([^=;]-)%s*=%s*([^;]*)")
      if kind == "cookie" and h[1] == "set-cookie" and cookie == name then add(out, "cookie=" .. name, value) end
    end
  end
  return out
end

-- Is it a JWT of which the header and claims stay (proxy.c, seal_jwt)?
local function stays(value)
  local decode, parts = require("secret").decode, {}
  for part in (value .. "."):gmatch("([^.]*)%.") do parts[#parts + 1] = decode("base64url", part) or false end
  local head = parts[1] and json.decode(parts[1])
  return parts[2] and parts[3] and not parts[4] and type(head) == "table" and SIGNS[head.alg] and type(json.decode(parts[2])) == "table"
    and #parts[3] >= SIGNATURE_MIN or false
end

-- Seconds from `now`; said: what the answer says of it | nil
local function seconds(row, said, now, most)
  local left, n = type(row.ttl) == "number" and row.ttl or seal.TTL, nil
  if type(said) == "number" or type(said) == "string" and said:find("^%-?%d[%d.eE+-]*$") then n = tonumber(said) end
  if n and n > 0 and n < NUMBER_MAX then
    n = math.tointeger(n // 1)
    left = n < RELATIVE_MAX and n or (n < MS_MIN and n or n // 1000) - now
  elseif not n and type(said) == "string" then
    local at = require("dates").parse(said)
    left = at and at - now or left
  end
  return math.min(left, most)
end

-- Why the server would not read this answer | nil
local function unread(rows, a)
  local kind = ""
  for _, h in ipairs(a.headers) do
    if h[1] == "content-encoding" and a.body ~= "" and h[2]:lower() ~= "identity" then return "is encoded, though identity was asked for" end
    if h[1] == "content-type" then kind = h[2] end
  end
  if #a.body > ANSWER_MAX then return "is over 1 MiB" end
  if a.status == 206 then return "is a part of the whole" end
  if a.json ~= nil then return nil end
  local of = require("body").of_type(kind)
  for _, row in ipairs(rows) do
    for _, m in ipairs(row.members) do
      if m[1] == "form" and found_in(m, a)[1] then return nil end
      if m[1] == "json" and of.kind ~= "form" and (a.status // 100 == 2 or of.kind == "json") then return "is no JSON" end
    end
  end
end

--- What of an answer a, as parse answers it, these rows would seal: { { member =, seconds =, begins =, shape =, row = } … } in the order of the
-- rows; or nil, why it would be 502 seal_failed. with: { now = Unix s, most = seal-max in s }
function M.answer(rows, r, a, with)
  local q, out, sure, must = question(r), {}, rows[1], a.status // 100 == 2
  for _, row in ipairs(rows) do
    if require("mint").surely({ row }, q) then sure = row break end
  end
  a.json = json.decode((a.body:gsub("^\xef\xbb\xbf", "")))
  local why = unread(rows, a)
  if why then return nil, "the answer " .. why end
  local groups, has, taken = {}, {}, {}
  for _, row in ipairs(rows) do
    local said = type(row.ttl) == "table" and found_in(row.ttl, a)
    local told = said and said[1] and said[1].value
    for _, m in ipairs(row.members) do
      local group = row == sure and must and m.group or nil
      if group then groups[group] = groups[group] or M.place(m) end
      for _, f in ipairs(found_in(m, a)) do
        if type(f.value) == "string" then
          has[group or false] = true
          if f.value ~= "" and not taken[f.name] then
            local jwt = row.shape == "jwt" and stays(f.value)
            out[#out + 1] = { member = f.name, seconds = seconds(row, told, with.now, with.most), shape = jwt and "jwt" or nil, begins = not jwt and row.prefix or nil, row = row }
          end
          taken[f.name] = true
        elseif f.value ~= json.null or m.group then
          return nil, ("the answer has what is no string as %s"):format(f.name)
        end
      end
    end
  end
  for group, name in pairs(groups) do
    if not has[group] then return nil, ("the answer has no %s"):format(name) end
  end
  return out
end

return M
