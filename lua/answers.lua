--- What rules do with answers: on_response of those that were asked about the request. Of a policy with `answer` it is told once the
-- answer has ended, of others it is asked about its head.
local M = {}

local waiting, last = {}, 0                             -- id -> { { rule, pipeline, with, memos } …, wanted =, … }: requests that go on
local of = setmetatable({}, { __mode = "k" })           -- request -> { id =, list =, memos = { [rule's name] = table } }

local function entry(req)
  local e = of[req]
  if not e then
    e = { memos = {}, list = {} }
    of[req] = e
  end
  return e
end

--- The tables that rules' functions share for one request: { [rule's name] = table }.
function M.memos(req) return entry(req).memos end

-- Sets what is looked for, the names in their quotes: is there any? And is a rule asked about the head?
local function wanted(list)
  local names, seen, head = { longest = 0 }, {}, false
  for _, one in ipairs(list) do
    head = head or not one[1].pol.answer
    for _, name in ipairs(one[1].pol.answer or {}) do
      if not seen[name] then names[#names + 1], seen[name] = '"' .. name .. '"', true end
      names.longest = math.max(names.longest, #name + 2)
    end
  end
  list.wanted, list.rest = names, ""
  return names[1] ~= nil, head
end

--- The rule is told when the request has ended, whatever becomes of it. with: rules.ask's, of which many requests may have one.
function M.add(pipeline, req, rule, with)
  local e, at = entry(req), nil
  with.after = with.after or { agent = with.agent, bundle = with.bundle, credential = with.credential, count = pipeline.count, warn = with.warn }
  for i, one in ipairs(e.list) do at = one[1].name == rule.name and i or at end
  e.list[at or #e.list + 1] = { rule, pipeline, with.after, e.memos }
  if not e.id then
    last = last + 1
    e.id, waiting[last] = last, e.list
  end
  req:tap(e.id, wanted(e.list))
end

--- The request is decided anew, and its rules may be others by now: none that was asked before has a say about the head of its answer.
-- Those that are told of its end are told, for they may have counted something.
function M.again(req)
  local list = of[req] and of[req].list or {}
  for i = #list, 1, -1 do
    if not list[i][1].pol.answer then table.remove(list, i) end
  end
end

-- What the rule's functions get now: the time has moved since they were called last.
local function now(one)
  local with = one[3]
  with.wall, with.offset, with.memos = nil, nil, one[4]
  return with
end

-- What rules want of an answer's body: the JSON objects that are members of certain names, at whatever depth, the first and the
-- last of them. Within a JSON text no other bytes look like a member's name: a quote within a string has a backslash before it.
local TEXT_MAX = 2048       -- bytes of one object; a longer one is as good as none
local SPACE_MAX = 256       -- bytes from a name to its object
local QUOTE, BACKSLASH, COLON, OPEN, LIST = 34, 92, 58, 123, 91

-- Goes on with the object in t.rest, behind its bytes up to t.at: its end; nil: it has not come.
local function object_end(t)
  local s = t.rest
  while true do
    local i = s:find(t.quoted and '["\\]' or '["{}%[%]]', t.at)
    if not i then
      t.at = math.max(t.at, #s + 1)
      return nil
    end
    local c = s:byte(i)
    t.at = i + (c == BACKSLASH and 2 or 1)
    if c == QUOTE then
      t.quoted = not t.quoted
    elseif c ~= BACKSLASH then
      t.depth = t.depth + ((c == OPEN or c == LIST) and 1 or -1)
      if t.depth == 0 then return i end
    end
  end
end

-- The first wanted name in t.rest from `from` on: where it begins, and ends.
local function name_in(t, from)
  local first, ends
  for _, name in ipairs(t.wanted) do
    local i, j = t.rest:find(name, from, true)
    if i and (not first or i < first) then first, ends = i, j end
  end
  return first, ends
end

--- C tells a piece of an answer's body.
function M.heard(_, id, piece)
  local t, from = waiting[id], 1
  if not t or not piece then return end
  t.rest = t.rest .. piece
  while true do
    if not t.depth then
      local begin, ends = name_in(t, from)
      if not begin then
        t.rest = t.rest:sub(math.max(from, #t.rest - t.wanted.longest + 2))
        return
      end
      local colon = t.rest:find("[^ \t\r\n]", ends + 1)
      local open = colon and t.rest:byte(colon) == COLON and t.rest:find("[^ \t\r\n]", colon + 1)
      if open and t.rest:byte(open) == OPEN then
        t.rest, from = t.rest:sub(open), 1
        t.at, t.depth, t.quoted = 2, 1, false
      elseif not open and (not colon or t.rest:byte(colon) == COLON) and #t.rest - ends < SPACE_MAX then
        t.rest = t.rest:sub(begin)      -- the rest of it is still to come
        return
      else
        from = ends + 1
      end
    end
    if t.depth then
      local stop = object_end(t)
      if stop and stop <= TEXT_MAX then
        t.final = t.rest:sub(1, stop)
        t.first = t.first or t.final
      elseif not stop and #t.rest <= TEXT_MAX then
        return
      end
      from, t.depth = math.min(stop or math.huge, TEXT_MAX) + 1, nil
    end
  end
end

--- C asks about the head of an answer: its status, and a line "name:value" for each field. "": it goes on | code, rule, message and
-- hint, a line each.
function M.judge(_, id, text)
  local rules, headers = require "rules", {}
  for name, value in text:gmatch("\n([^\n:]*):([^\n]*)") do headers[#headers + 1] = { name, value } end
  local head = { status = math.tointeger(tonumber(text:match("^%d+"))), headers = headers }
  for _, one in ipairs(waiting[id]) do
    local rule, pipeline = one[1], one[2]
    if not rule.pol.answer then
      local code, message, hint, options = rules.head(rule, pipeline.sandbox.call, head, now(one))
      if code == "rule_failed" then
        local errors = require "errors"
        pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(options.trouble))))
      end
      if code then return ("%s\n%s\n%s\n%s"):format(code, rule.name, message, hint) end
    end
  end
  return ""
end

--- The handle is another request's from now on. gone: and nothing of this one is told.
function M.forget(req, gone)
  local e = of[req]
  if e and e.id and gone then waiting[e.id] = nil end
  of[req] = nil
end

local function objects(first, final)
  local out = {}
  for _, text in ipairs { first, final ~= first and final or nil } do
    local value = require("json").decode(text)
    if type(value) == "table" then out[#out + 1] = value end
  end
  return out
end

--- A request has ended. answered: an upstream's answer began, and this is its status; whole: it came to its end, and went to
-- the client. up, down: bytes of bodies.
function M.ended(id, status, answered, whole, up, down)
  local list = waiting[id] or {}
  waiting[id] = nil
  for _, one in ipairs(list) do
    local rule, pipeline = one[1], one[2]
    local why = rule.pol.answer and require("rules").answered(rule, pipeline.sandbox.call,
      { status = status, answered = answered, whole = whole, up = up, down = down, objects = objects(list.first, list.final) }, now(one))
    if why then
      local errors = require "errors"
      pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(why))))
    end
  end
end

--- C says so: the numbers of M.ended behind the id, as they lie in memory.
function M.over(_, id, text)
  local status, answered, whole, up, down = ("=i8i8i8i8i8"):unpack(text)
  M.ended(id, status, answered ~= 0, whole ~= 0, up, down)
end

return M
