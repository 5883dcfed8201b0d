--- Records of kind `change`: who changed which records of the store, by which command or page, and from where. Names of
-- records and of members, and never a value of one: some are secrets.
local M = {}

local TEXT_MAX = 200        -- bytes of a name
local ROOM = 2500           -- bytes of what was changed: a record is one piece for the log's pipe (PIPE_BUF)

--- Who changes something, for the member `context` of a commit's operations: the request q of the door, the user (or client) who asks, and
-- the OAuth client where one acts for them.
function M.page(q, by, client)
  return { by = by, oauth_client = client, door = "gateway", page = ("%s %s"):format(q.method, q.path), client = q.peer }
end

--- The same of the command that this process runs; set by cli.main.
M.process = nil

-- ---- what is changed -----------------------------------------------------------------------------

-- Names of what lies in each database: f(key, the record as it will be or was) -> text | nil: it is no change.
local names = {
  meta = function(key) return key:gsub("^set/", "setting "):gsub("^api%-token/", "API token "), nil end,
  policy = function(key) return "policy " .. key:gsub("/", " version ") end,
  credential = function(key) return "credential " .. key end,
  bundle = function(key) return (key:find("/", 1, true) and "domain entry " or "bundle ") .. key:gsub("/", " ", 1) end,
  agent = function(key, r)
    local kind, name = key:match("^(%a)/(.*)$")
    if kind == "a" then return (r.kind == "tenant" and "tenant " or "agent ") .. name end
    if kind == "t" then return "token of agent " .. tostring(r.agent) end
    return kind == "d" and "agents' own listeners" or nil       -- e/: how tokens ended, beside their end itself
  end,
  user = function(key, r)
    local kind, name = key:match("^(%a)/(.*)$")
    return kind == "u" and "user " .. name or kind == "r" and "role " .. name or "sign-in of user " .. tostring(r.user)
  end,
  client = function(key) return "client " .. key:sub(3) end,
  gateway = function(key) return "gateway " .. key end,
  grant = function(key, r) return key:sub(1, 2) == "g/" and "connection " .. key:sub(3) or "key " .. tostring(r.name) end,
  proposal = function(_, r) return ("proposal %s of agent %s"):format(tostring(r.proposal), tostring(r.agent)) end,
  approval = function(_, r) return ("%s of agent %s, rule %s"):format(r.boot and "question " .. tostring(r.question) or "approval", tostring(r.agent), tostring(r.rule)) end,
  token = function(key, r) return key:sub(1, 2) == "l/" and "link for user " .. tostring(r.user) or nil end,
}

-- Tokens that a command, or a person at the door, brings or takes away; a worker renews them by itself.
local function state_name(key) return key:find("^k/") and "stand-in " .. key:sub(3):gsub("/", " for ", 1) or "tokens of " .. key end

-- Databases of the program's own. One that is neither here nor above, for it is new, is logged by its name.
local own_dbs = { lease = true, state = true, counter = true }
-- What the program notes in a record by itself, at each renewal, link and fetch: no change.
local own = { grant = { rotation = true }, user = { links = true }, credential = { noted = true } }
-- What store.core adds to a record's members.
local added = { version = true, id = true, epoch = true, secrets = true, sealed = true, unverified = true }

-- The names of members that differ, secrets among them.
local function differing(op, old)
  local out, seen = {}, {}
  local function add(k)
    if not seen[k] and not added[k] and not (own[op.db] and own[op.db][k]) then seen[k], out[#out + 1] = true, (tostring(k):gsub("^%a/", "")) end
  end
  for k, v in pairs(op.plain) do
    if not require("records").same(v, old[k]) then add(k) end
  end
  for k in pairs(old) do
    if op.plain[k] == nil then add(k) end
  end
  for k in pairs(op.secrets or {}) do add(k) end
  table.sort(out)
  return out
end

local function text(s)
  s = require("policy_log").escape(tostring(s))
  return #s <= TEXT_MAX and s or s:sub(1, TEXT_MAX):gsub("[\128-\255]*$", "") .. "…"
end

-- An operation as { record, did, members } | nil: it is no change. person: somebody asks for it.
local function change(core, op, person)
  local name = names[op.db] or op.db == "state" and person and state_name or not own_dbs[op.db] and function(key) return op.db .. " " .. key end
  if not name or op.op == "check" then return nil end
  local old, code = core.peek(op.db, op.key)
  local shown = name(op.key, op.plain or old or {})
  if op.op == "del" then
    return shown and (old or code == "damaged") and { record = text(shown), did = "removed" } or nil
  end
  if not shown then return nil end
  if not old or op.fresh then return { record = text(shown), did = old and "replaced" or "added" } end
  local members = differing(op, old)
  if #members == 0 and not op.moves then return nil end
  for i, m in ipairs(members) do members[i] = text(m) end
  return { record = text(shown), did = "changed", members = require("json").array(members) }
end

--- What a commit of these operations changes: a list | nil: nothing that somebody configures. It is asked before the commit, which
-- itself checks that the records are those.
function M.of(core, ops)
  local out
  for _, op in ipairs(ops) do
    local one = change(core, op, M.sink or ops.context)
    if one then
      out = out or {}
      out[#out + 1] = one
    end
  end
  return out
end

-- ---- the record ----------------------------------------------------------------------------------

--- Where records go in a process without a pipe to the log's writer: f(line). Set by cli.main.
M.sink = nil

--- The record's line, and its id. What the program does by itself has no context.
function M.line(list, context)
  local json = require "json"
  local id = select(2, require("host").random_token ""):sub(1, 16)
  local parts = { ('{"time":%d,"kind":"change","request":"%s"'):format(require("time").wall_ms(), id) }
  context = context or M.process or { by = "sallyport" }
  for _, name in ipairs { "by", "oauth_client", "door", "command", "page", "from", "client" } do
    if context[name] then parts[#parts + 1] = (',"%s":%s'):format(name, json.encode(text(context[name]))) end
  end
  local some, room = {}, ROOM
  for i, one in ipairs(list) do
    local piece = json.encode(one)
    room = room - #piece
    if room < 0 and i > 1 then break end
    some[i] = #piece <= ROOM and piece or json.encode { record = one.record, did = one.did }
  end
  parts[#parts + 1] = (',"changes":[%s]'):format(table.concat(some, ","))
  if #some < #list then parts[#parts + 1] = (',"more":%d'):format(#list - #some) end
  return table.concat(parts) .. "}", id
end

--- Writes a record's line. unsure: the store did not say in time whether it was written.
function M.write(line, unsure)
  if unsure then line = line:sub(1, -2) .. ',"error":"timeout"}' end
  if not require("host").record(line) and M.sink then M.sink(line) end
end

--- Writes the record of a list of changes, which is no commit's.
function M.record(list)
  M.write((M.line(list)))
end

return M
