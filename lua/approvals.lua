--- A person's word: what a rule says with ask(reason, key) is held until somebody answers (sallyport approval). Questions and
-- answers are records of the store, so each worker sees an answer when it looks next; nothing else waits for them.
--
-- What a request said lies there as only the store's key reads it (store.conceal): its URL and the rule's reason as `said`, what the rule saw
-- as `saw`. all() and named() open the first, M.saw the other.
--
-- A question's key is AGENT-ID/DIGEST-OF-RULE-AND-REQUEST: { question = its name, state = "open" | "once" | "denied", … }, of one run of the server (`boot`). An answer
-- for an hour or a day is AGENT-ID/+DIGEST-OF-WHAT-IT-COVERS; one for always stands in the rule (`exceptions`).
-- "Once" is spent by the commit that removes its record, and by a counter that all workers share: a record that somebody put back
-- on the disk is spent already. Answers for longer have no such counter: one that is put back counts until its time is over.
local M = {}

M.OPEN = 600                -- s that a question stays open, and an answer "once" good
M.SPANS = { hour = 3600, day = 86400 }
local POLL = 200            -- ms between two looks
local OPEN_MAX = 20         -- questions of an agent: more than that nobody reads in their time
local HELD_MAX = 8          -- requests of an agent that wait in one worker, each with its body in memory
local RENEW = 60            -- s: a question that is asked again is written again no more often
local TRIES = 4             -- other workers write the same question
local COMMIT = 10000        -- ms
local WORDS_MAX = 1000      -- bytes of a URL, or of another text of the agent's, that a person reads
local PAGE = 64

-- Fields that are no part of what is asked for, for they differ each time: the date, the hop, tracing, how a client counts its
-- own calls and tries, and what it says of itself (botocore's User-Agent lists its features in another order in each process).
local changing = {}
for name in ([[date x-amz-date x-ms-date x-goog-date connection keep-alive proxy-connection proxy-authorization te trailer
  transfer-encoding content-length upgrade expect host traceparent tracestate baggage b3 x-b3-traceid x-b3-spanid
  x-b3-parentspanid x-b3-sampled x-b3-flags x-amzn-trace-id x-cloud-trace-context grpc-trace-bin sentry-trace uber-trace-id
  x-datadog-trace-id x-datadog-parent-id x-datadog-sampling-priority x-datadog-tags newrelic x-request-id x-correlation-id
  request-id correlation-context x-client-request-id x-ms-client-request-id client-request-id return-client-request-id
  amz-sdk-invocation-id amz-sdk-request x-stainless-retry-count x-stainless-timeout x-stainless-read-timeout
  user-agent x-amz-user-agent x-goog-api-client x-goog-gcs-idempotency-token idempotency-key x-idempotency-key sec-websocket-key]]):gmatch("%S+") do changing[name] = true end

local held = {}                                      -- agent's id -> requests of it that wait in this worker
local memos = setmetatable({}, { __mode = "k" })     -- request -> { [what was asked] = "granted" | when its hold ends }

local function hash(...) return (require("host").sha256_hex(string.pack(("s4"):rep(select("#", ...)), ...)):sub(1, 40)) end

-- The names that come off before the credential is attached: they do not go out.
local function strips_of(self, name)
  local opened = name and self.config:open(name)
  if not opened or opened.rec.attach == "placeholder:own" then return {}, {} end
  local strips, query = opened.strips.guarded, {}
  for _, n in ipairs(strips.query or {}) do query[n:lower()] = true end
  return strips.headers or {}, query
end

local function query_of(text, off)
  if not text or not next(off) then return text or "" end
  local left = {}
  for pair in text:gmatch("[^&]+") do
    local name = require("uri").parse_query(pair)
    if not (name and name[1] and off[name[1][1]:lower()]) then left[#left + 1] = pair end
  end
  return table.concat(left, "&")
end

--- What the request is, as it would go out without its credential, as one text of 40 letters. name: the credential's.
function M.digest(self, req, agent, name, view)
  local headers, seen, fields = view.headers, {}, {}
  local off, off_query = strips_of(self, name)
  local fold = require("carriers").fold
  for _, field in ipairs(headers:names()) do
    seen[field] = (seen[field] or 0) + 1
    if not changing[field] and not off[fold(field)] then
      fields[#fields + 1] = string.pack("s4s4", field, tostring(headers:get(field, seen[field])))
    end
  end
  table.sort(fields)
  return hash(agent.id, name or "", req.method, req.websocket and "websocket" or "", req.scheme or "", req.host, tostring(req.port), req.path or "",
    query_of(req.query, off_query), view.body or "", table.concat(fields))
end

--- What a person reads of a text: nothing unseen, and UTF-8, for records and answers are JSON. One that is shown otherwise than it is, or
-- cut, says so, and its digest tells it from others that look alike or begin as it does: answers for longer stand under these words.
function M.words(text)
  local shown = require("policy_log").cut(require("web.page").visible(text), WORDS_MAX)
  if shown == text then return text end
  return ("%s (%d bytes, SHA-256 %s)"):format(shown, #text, require("host").sha256_hex(text))
end
local words = M.words

local function port_of(req) return req.port ~= (req.scheme == "http" and 80 or 443) and ":" .. req.port or "" end

--- What an answer for longer covers, in the words that the person reads: another port is another server, a WebSocket is more than the
-- one request, and what was asked of https is not allowed in the clear.
function M.covers(req, name, key)
  if key then return words(key) end
  return ("%s %s%s%s%s%s"):format(req.websocket and "WEBSOCKET" or req.method, req.scheme == "http" and "http://" or "", req.host, port_of(req), words(req.path or ""),
    name and " with " .. name or "")
end

-- The URL as it would go out without its credential: a key of the agent's own that comes off is not shown.
local function url_of(self, req, name)
  local _, off = strips_of(self, name)
  local query = query_of(req.query, off)
  return words(("%s://%s%s%s%s"):format(req.scheme or "tunnel", require("errors").host(req.host), port_of(req), req.path or "",
    query ~= "" and "?" .. query or ""))
end

--- The key under which an answer for longer stands.
function M.standing(agent_id, rule, covers) return agent_id .. "/+" .. hash(rule.name, tostring(rule.created), covers) end

local function excepted(rule, agent, covers)
  for _, e in ipairs(rule.exceptions or {}) do
    if e.agent_id == agent.id and e.covers == covers then return true end
  end
  return false
end

--- Does an answer for longer cover it: for an hour or a day, or always?
function M.stands(store, agent, rule, covers, wall)
  if excepted(rule, agent, covers) then return true end
  local standing = store.peek("approval", M.standing(agent.id, rule, covers))
  return standing ~= nil and standing["until"] > wall
end

local function timed_out(rule, reason, id, hold)
  return "approval_timeout", ("rule %s: %s; nobody answered within %s"):format(rule.name, reason, require("records").span(hold)),
    ("the question %s stays open for 10 minutes: once it is allowed (sallyport approval allow %s), send the same request again"):format(id, id)
end

local function full(rule)
  return "too_many", ("rule %s: too many requests of this agent wait for a person"):format(rule.name), "wait until they are answered"
end

-- A record of these members as it is kept: what the request said is concealed | nil, code
local function kept(plain)
  local store, json = require "store", require "json"
  local said, code = store.conceal(json.encode { url = plain.url, reason = plain.reason })
  local saw = said and plain.saw and store.conceal(json.encode(plain.saw))
  plain.url, plain.reason, plain.said, plain.saw = nil, nil, said, saw
  return said and plain, code
end

-- A new question, or the one that stands. record | nil, code, message, hint
local function question(self, req, agent, bundle, name, rule, what, key, covers, hold, saw)
  local store, now, wall = self.store, self.time.now, self.time.wall()
  local boot = self.config.overrides and self.config.overrides.boot
  for _ = 1, TRIES do
    local had = store.peek("approval", key)
    if had and had.boot == boot and had["until"] > wall and (had.state ~= "open" or had["until"] - wall > hold + M.OPEN - RENEW) then return had end
    local ops, open, after = {}, 0, nil
    repeat
      local page = store.each("approval", agent.id .. "/", after, PAGE)
      for _, row in ipairs(page) do
        local r = row.record
        after = row.key
        if row.key ~= key then
          if row.damaged or r["until"] <= wall or r.boot and r.boot ~= boot then
            ops[#ops + 1] = { op = "del", db = "approval", key = row.key, version = r and r.version or nil }
          elseif r.boot then open = open + 1 end
        end
      end
    until #page < PAGE
    if open >= OPEN_MAX then return nil, full(rule) end
    local body, kind = req:view().body, req.has_body and req:view().headers:get("content-type")
    local same = had and had.boot == boot and had["until"] > wall
    local plain = {
      question = same and had.question or require("host").sha256_hex((require("host").random_token(""))):sub(1, 8), state = "open", boot = boot,
      agent = agent.name, agent_id = agent.id, bundle = bundle, credential = name, rule = rule.name, reason = words(what.reason),
      covers = covers, keyed = what.key ~= nil or nil, method = req.method, asked = same and had.asked or wall, ["until"] = wall + hold + M.OPEN,
      url = url_of(self, req, name), port = req.port, type = kind and words(kind) or nil,
      bytes = body and #body or nil, sha256 = body and require("host").sha256_hex(body) or nil, saw = saw(),
    }
    local record = kept(plain)
    if not record then return nil, "store_unavailable" end
    ops[#ops + 1] = { op = "put", db = "approval", key = key, version = had and had.version or 0, plain = record }
    local ok, code = store.commit(ops, now() + COMMIT)
    if ok and not same then
      require("webhook").question(self.config.settings, { agent = agent.name, question = plain.question, rule = rule.name, method = req.method, host = req.host, credential = name })
    end
    if ok then return store.peek("approval", key) or plain end
    if code ~= "conflict" then return nil, "store_unavailable" end
  end
  return nil, "store_unavailable"
end

-- Takes an answer "once": true, for the one request that gets it. The counter lasts as long as the record counts.
local function spend(self, key, record)
  local ok = self.store.commit({ { op = "del", db = "approval", key = key, version = record.version } }, self.time.now() + COMMIT)
  return ok and require("host").count("approval " .. record.question, record["until"], 1, record.agent) == 1
end

-- One of the requests of an agent that wait, until it is closed; nil: it has its share of them.
local function place(agent)
  local id = agent.id
  if (held[id] or 0) >= HELD_MAX then return nil end
  held[id] = (held[id] or 0) + 1
  return setmetatable({}, { __close = function() held[id] = held[id] > 1 and held[id] - 1 or nil end })
end

--- Asks a person about a request, whose body was read. what: { reason =, key = }. seen: what the rule saw of it (rules.request); held: what
-- stands for the credential in the agent's requests. -> nil: it may go on | "asked": so it may, or the
-- answer is another one now, and all is decided anew | code, message, hint
function M.ask(self, req, agent, bundle, name, rule, what, seen, held)
  local now, hold = self.time.now, self.config.settings.approval_wait
  local covers = M.covers(req, name, what.key)
  if M.stands(self.store, agent, rule, covers, self.time.wall()) then return nil end
  -- the rule's, too: another that asks about the same request has a question, and answers, of its own
  local key = agent.id .. "/" .. hash(rule.name, tostring(rule.created), M.digest(self, req, agent, name, req:view()))
  local memo = memos[req] or {}
  memos[req] = memo
  local mark = rule.name .. " " .. key
  if memo[mark] == "granted" then return nil end
  local till = memo[mark] or now() + 1000 * hold
  memo[mark] = till
  local at <close> = place(agent)
  if not at then return full(rule) end
  local asked, code, message, hint = question(self, req, agent, bundle, name, rule, what, key, covers, hold,
    function() return require("saw").of(seen, (strips_of(self, name)), held) end)
  if not asked then return code, message, hint end
  while true do
    local r = self.store.peek("approval", key)
    if not r then return "asked" end         -- another request took it, or it covers more now
    if r.state == "denied" then
      return "rule_denied", ("rule %s: %s; a person refused it"):format(rule.name, what.reason),
        "the same request is refused until 10 minutes after that answer; then it is asked about anew"
    end
    if r.state == "once" then
      if spend(self, key, r) then memo[mark] = "granted" end
      return "asked"
    end
    if now() >= till then return timed_out(rule, what.reason, r.question, hold) end
    self.time.sleep(POLL)
  end
end

-- What has ended goes out of the store: a question says what a request said, a proposal may have a secret.
local function tidy()
  local store, wall, after = require "store", require("time").wall(), nil
  repeat
    local ops, page = {}, store.each("approval", "", after, PAGE) or {}
    for _, row in ipairs(page) do
      after = row.key
      if row.record and row.record["until"] <= wall then ops[#ops + 1] = { op = "del", db = "approval", key = row.key, version = row.record.version } end
    end
    if ops[1] then store.write(ops, require("time").now() + COMMIT) end
  until #page < PAGE
  require("proposals").tidy()
end

local TIDY = 60             -- s between two looks, of all workers together

--- Called each tick.
function M.tick()
  local ends = require("counters").ends(TIDY, require("time").wall())
  if require("host").count("approvals tidied", ends, 1, "") == 1 then require("host").spawn(tidy) end
end

--- Is a record of the database a question, of a run of the server?
function M.is_question(record) return record.boot ~= nil end

-- ---- the answer ----------------------------------------------------------------------------------

-- What is concealed in a record | nil
local function opened(text)
  local json = type(text) == "string" and require("store").reveal(text)
  return json and require("json").decode(json) or nil
end

--- Every record that still counts, the oldest first: { key, record } each.
function M.all()
  local wall = require("time").wall()
  local rows = require("cli.db").oldest("approval", "asked", function(r) return r["until"] > wall end)
  for _, row in ipairs(rows) do
    local said = opened(row.record.said) or {}
    row.record.url, row.record.reason = said.url or row.record.url or "", said.reason or row.record.reason or ""
  end
  return rows
end

--- What the rule saw of the request (saw.of) | nil: it was of a question alone.
function M.saw(r) return opened(r.saw) end

--- What is asked under this name, or was answered: { key, record } | nil
function M.named(id)
  for _, row in ipairs(M.all()) do
    if row.record.question == id then return row end
  end
end

local spans = { once = true, hour = true, day = true, always = true }

function M.is_span(text) return spans[text] == true end

local function answered(r, state, till)
  local plain = require("cli.db").plain(r)
  plain.state, plain["until"] = state, till
  if plain.said then plain.url, plain.reason = nil, nil end
  return plain
end

-- The rule that asked, in its bundle's record.
local function rule_of(bundle, r)
  for _, rule in ipairs(bundle and bundle.rules or {}) do
    if rule.name == r.rule then return rule end
  end
end

--- The operations that allow what is asked: for longer than once, the question goes, and what covers it comes. nil, code: "absent",
-- "answered", "rule_gone", "damaged". span: "once", "hour", "day", "always"
function M.allow(id, span)
  local row, wall, store = M.named(id), require("time").wall(), require "store"
  local r = row and row.record
  if not r then return nil, "absent" end
  if not M.is_question(r) then return nil, "answered" end
  if span == "once" then
    return { { op = "put", db = "approval", key = row.key, version = r.version, plain = answered(r, "once", wall + M.OPEN) } }
  end
  local bundle, code = store.peek("bundle", r.bundle)
  if code == "damaged" then return nil, code end
  local rule, ops = rule_of(bundle, r), { { op = "del", db = "approval", key = row.key, version = r.version } }
  if not rule then return nil, "rule_gone" end
  if span == "always" then
    local plain = require("cli.db").plain(bundle)
    rule.exceptions = rule.exceptions or {}
    table.insert(rule.exceptions, { agent = r.agent, agent_id = r.agent_id, covers = r.covers })
    ops[2] = { op = "put", db = "bundle", key = r.bundle, version = bundle.version, plain = plain }
    return ops
  end
  local key, plain = M.standing(r.agent_id, rule, r.covers), answered(r, span, wall + M.SPANS[span])
  plain.boot, plain.saw = nil, nil
  local had = store.peek("approval", key)
  ops[2] = { op = "put", db = "approval", key = key, version = had and had.version or 0, plain = plain }
  return ops
end

--- The operations that refuse it, and the same for as long as a question stays open; of an answer that was given, those that take it back.
function M.deny(id)
  local row = M.named(id)
  local r = row and row.record
  if not r then return nil, "absent" end
  if not M.is_question(r) then return { { op = "del", db = "approval", key = row.key, version = r.version } } end
  return { { op = "put", db = "approval", key = row.key, version = r.version,
    plain = answered(r, "denied", require("time").wall() + M.OPEN) } }
end

return M
