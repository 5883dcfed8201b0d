--- What rules do with answers: on_response of those that were asked about the request. Of a policy with `answer` it is told once the
-- answer has ended, of others it is asked about its head.
local M = {}

local waiting, last = {}, 0                             -- id -> { { rule, pipeline, with, memos } … }: requests that go on
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

-- The names of all that is looked for, a line each; and is one of them asked about the head?
local function wanted(list)
  local names, seen, head = {}, {}, false
  for _, one in ipairs(list) do
    head = head or not one[1].pol.answer
    for _, name in ipairs(one[1].pol.answer or {}) do
      if not seen[name] then names[#names + 1], seen[name] = name .. "\n", true end
    end
  end
  return table.concat(names), head
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
  for _, text in ipairs { first, final ~= first and final or "" } do
    local value = text ~= "" and require("json").decode(text)
    if type(value) == "table" then out[#out + 1] = value end
  end
  return out
end

--- C says that a request has ended. answered: an upstream's answer began, and this is its status; whole: it came to its end, and went to
-- the client. up, down: bytes of bodies.
-- first, final: the first and the last object among those that rules want, or "".
function M.ended(id, status, answered, whole, up, down, first, final)
  local list = waiting[id]
  waiting[id] = nil
  for _, one in ipairs(list or {}) do
    local rule, pipeline = one[1], one[2]
    local why = rule.pol.answer and require("rules").answered(rule, pipeline.sandbox.call,
      { status = status, answered = answered, whole = whole, up = up, down = down, objects = objects(first, final) }, now(one))
    if why then
      local errors = require "errors"
      pipeline.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(why))))
    end
  end
end

return M
