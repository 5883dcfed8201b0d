--- What rules do with answers (lua/answers.lua): who is asked about a head, who is told of an end, what they share.
local answers, rules = require "answers", require "rules"

local pipeline = { log = function() end, count = function() return 1 end, sandbox = { call = function(_, f, ...) return pcall(f, ...) end } }

local function request()
  return { tap = function(self, id, names, head) self.id, self.names, self.head = id, names, head end }
end

local function judge(name)
  return { name = name, type = name, fields = {}, pol = { on_response = function() return rules.functions.deny("no") end } }
end

local function told(name, names, list)
  return { name = name, type = name, fields = {}, pol = { answer = names, on_response = function(res, ctx) list[#list + 1] = { name, res.status, ctx.memo.n } end } }
end

return {
  ["a rule that is not asked any more has no say about the head; one that is told of ends is told"] = function()
    local req, list, with = request(), {}, { agent = "a", bundle = "b" }
    answers.add(pipeline, req, judge "old", with)
    answers.add(pipeline, req, told("counts", { "usage" }, list), with)
    assert(req.head == true and req.names == "usage\n")
    assert(answers.judge("", req.id, "200\nx:y\n"):find("^rule_denied\nold\n"))
    answers.again(req)
    assert(answers.judge("", req.id, "200\nx:y\n") == "", "the rule of an earlier pass judges")
    answers.add(pipeline, req, told("other", { "usage", "x" }, list), { agent = "a", bundle = "b" })
    assert(req.head == false and req.names == "usage\nx\n", req.names)
    answers.ended(req.id, 200, true, true, 1, 2, "", "")
    assert(#list == 2 and list[1][1] == "counts" and list[2][1] == "other")
  end,

  ["requests that have one `with` have a memo each"] = function()
    local list, with, a, b = {}, { agent = "a", bundle = "b" }, request(), request()
    local rule = told("counts", {}, list)
    for i, req in ipairs { a, b } do
      answers.memos(req).counts = { n = i }
      answers.add(pipeline, req, rule, with)
    end
    answers.ended(b.id, 204, true, true, 0, 0, "", "")
    answers.ended(a.id, 200, true, true, 0, 0, "", "")
    assert(list[1][3] == 2 and list[1][2] == 204 and list[2][3] == 1 and list[2][2] == 200)
    answers.ended(a.id, 200, true, true, 0, 0, "", "")
    assert(#list == 2, "told twice")
  end,

  ["a rule whose answer is wanted when it has a field follows answers then alone"] = function()
    local policy = require "policy"
    local function compiled(answer)
      return policy.compile("r", ([[return { kind = "rule", api = 1, name = "r", title = "R", fields = { { name = "bytes", type = "integer" } },
        answer = %s, on_request = function() end, on_response = function() end }]]):format(answer))
    end
    local pol = assert(compiled '{ "usage", when = "bytes" }')
    local list = rules.ready({ { name = "a", type = "r", fields = {} }, { name = "b", type = "r", fields = { bytes = 1 } } },
      { load = function() return pol end }, policy, require("config").freeze)
    assert(not list[1].follows and list[2].follows == true and list[2].pol.answer[1] == "usage" and #list[2].pol.answer == 1)
    for _, wrong in ipairs { '{ when = "byte" }', '{ when = 1 }', '{ if_ = "bytes" }', '{ [2] = "usage" }', '{ "a", "b", "c", "d" }' } do
      local none, why = compiled(wrong)
      assert(not none and why, wrong)
    end
  end,
}
