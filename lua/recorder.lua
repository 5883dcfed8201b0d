--- Recording for `sallyport record`: while the store has meta/record, a worker writes for each request what its decision
-- read and what it was, into the log's pipe; the log's writer keeps these lines in a file of their own (reqlog.lua).
-- A line: { time (Unix ms), kind = "traffic", agent, method, url, websocket, headers = [names], values = { name = value } of those
--   that `record --header` named, length | chunked, type (of the body: json, form, multipart, other), presents = { credential =
--   where its placeholder stood }, asked = { credential = bool } of those that the decision asked about, counts = { counter =
--   value }, decision, code, bundle, credential | domain, cut }
-- No value of another header, no body, and of the query no value of a name that holds keys.
local errors = require "errors"
local M = {}

local LINE_MAX = 3900       -- bytes: a line goes through the pipe in one piece (PIPE_BUF)
local URL_MAX = 2000

M.KEY = "record"            -- in meta: { till (Unix s), agent, headers = [names] }

local taps = setmetatable({}, { __mode = "k" })     -- request -> what is noted of it
local times = setmetatable({}, { __mode = "k" })    -- that -> when it came, Unix ms

-- Words in names whose values are keys, or like them.
local KEYS = { "key", "token", "secret", "sig", "pass", "pwd", "auth", "code", "credential", "session", "jwt", "assertion", "hash", "nonce" }

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- The query without the values of keys, and of what holds such a name and value in turn: a URL, pairs that ";" parts.
-- Placeholders stay: they are worthless elsewhere.
local function bare_query(query, ours)
  return (query:gsub("([^&]+)", function(pair)
    for _, text in ipairs(ours) do
      if pair:find(text, 1, true) then return nil end
    end
    local plain = decoded(decoded(pair)):lower()
    for _, word in ipairs(KEYS) do
      if plain:find(word .. "[^=&;?#]*=") then return pair:match("^[^=]*") .. "=" end
    end
  end))
end

-- Where a text of the agent's stands.
local function place_of(req, view, held)
  for _, name in ipairs(view.headers:names()) do
    for n = 1, 4 do
      local value = view.headers:get(name, n)
      if not value then break end
      for _, h in ipairs(held) do
        if value:find(h.text, 1, true) then return "header=" .. name end
      end
    end
  end
  for _, h in ipairs(held) do
    if req.path:find(h.text, 1, true) then return "path" end
    if req.query and req.query:find(h.text, 1, true) then return "query" end
  end
  return "header=authorization"     -- within Basic
end

local function heard(req, code)
  if taps[req] then taps[req].code = code end
end

--- Begins to note a request of this agent's; nil: it is not recorded. held_of(name) -> its placeholders of a credential.
function M.begin(recording, req, agent, held_of, now)
  if now >= 1000 * recording.till or recording.agent and recording.agent ~= agent.name then return nil end
  errors.heard = heard
  local view = req:view()
  local headers, values, named = {}, {}, {}
  for _, name in ipairs(recording.headers or {}) do named[name] = true end
  for i, name in ipairs(view.headers:names()) do
    headers[i] = name
    if named[name] then values[name] = view.headers:get(name) end
  end
  local presents = {}
  for _, name in ipairs(agent.known and { req:known(agent.known) } or {}) do presents[name] = place_of(req, view, held_of(name)) end
  local default = req.scheme == "https" and 443 or 80
  local url = ("%s://%s%s%s"):format(req.scheme, errors.host(req.host), req.port ~= default and ":" .. req.port or "", req.path)
  local query = req.query
  if query then
    local more = {}
    for name in pairs(presents) do
      for _, h in ipairs(held_of(name)) do more[#more + 1] = h.text end
    end
    url = url .. "?" .. bare_query(query, more)
  end
  local of = req.has_body and require("body").of(view.headers)
  local tap = {
    agent = agent.name, method = req.method, url = url, websocket = req.websocket or nil,
    headers = require("json").array(headers), values = next(values) and values or nil, length = req.has_body and req.length or nil,
    chunked = req.has_body and not req.length or nil, type = of and (of.form and "form" or of.json and "json" or of.multipart and "multipart" or "other") or nil,
    presents = next(presents) and presents or nil,
  }
  if #url > URL_MAX then tap.url, tap.cut = require("policy_log").cut(url, URL_MAX), true end
  taps[req], times[tap] = tap, now
end

--- The decision asked whether the request presents this credential's placeholder.
function M.presents(req, name, does)
  local tap = taps[req]
  if not tap then return end
  tap.asked = tap.asked or {}
  tap.asked[name] = does
end

--- What decided: a plan's log. nil: nothing did.
function M.decided(req, log)
  local tap = taps[req]
  if not tap then return end
  tap.bundle, tap.credential = log.bundle, log.credential
  tap.domain = not log.credential and (log.reason or ""):match("^domain (.*)$") or nil
  if log.reason == "sealed" then tap.sealed = true end
end

--- Marks of what a replay cannot know: "answered" (by the proxy itself), "asked" (a person).
function M.mark(req, what)
  if taps[req] then taps[req][what] = true end
end

--- What a rule's declared reader read: "push", as pktline.parse has it, or why it cannot be read.
function M.note(req, what, value)
  if taps[req] then taps[req][what] = value end
end

--- What a rule's reader found of the members that it declares, or why it cannot be read.
function M.read(req, rule, found)
  local tap = taps[req]
  if not tap then return end
  tap.members = tap.members or {}
  tap.members[rule.name] = type(found) == "string" and { why = found } or { paths = rule.members, kind = found.kind, values = found.values }
end

--- A rule's counter, with what it answered noted.
function M.counting(req, count)
  local tap = taps[req]
  if not tap then return count end
  return function(name, window, n, owner, kept)
    local value = count(name, window, n, owner, kept)
    tap.counts = tap.counts or {}
    tap.counts[name] = value
    return value
  end
end

--- Writes the line.
function M.done(req)
  local tap, json = taps[req], require "json"
  taps[req] = nil
  if not tap then return end
  tap.decision = tap.code and "deny" or "allow"
  local ok, line = pcall(json.encode, tap)
  if not ok or #line > LINE_MAX then
    tap.cut, tap.headers, tap.values, tap.counts, tap.push, tap.members, tap.url = true, nil, nil, nil, nil, nil, ok and require("policy_log").cut(tap.url, 500) or nil
    ok, line = pcall(json.encode, tap)
  end
  if ok and #line <= LINE_MAX then
    -- the writer knows its lines by how they begin
    require("host").record(('{"time":%d,"kind":"traffic",%s'):format(times[tap], (line:sub(2))))
  end
end

return M
