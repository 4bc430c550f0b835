# bash completion for pysendmail(8): /usr/share/bash-completion/completions/pysendmail
# Commands and options; for `queue` and `history` the ids of what waits, for `probe` the smarthosts.

_pysendmail() {
    local word=${COMP_WORDS[COMP_CWORD]} command='' words='' i
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    -C | --config) mapfile -t COMPREPLY < <(compgen -f -- "$word") && return ;;
    --to | --older | --reason | --since | --until | --address | --host | --port | --username) return ;;
    --password-file | --tls-ca-file) mapfile -t COMPREPLY < <(compgen -f -- "$word") && return ;;
    --tls) mapfile -t COMPREPLY < <(compgen -W 'may encrypt verify' -- "$word") && return ;;
    --from)
        [[ " ${COMP_WORDS[*]} " == *' import '* ]] || return
        mapfile -t COMPREPLY < <(compgen -W 'postfix msmtp nullmailer ssmtp dma' -- "$word") && return
        ;;
    --outcome)
        mapfile -t COMPREPLY < <(compgen -W 'sent bounced expired discarded removed waiting' -- "$word") && return
        ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -C | --config) i=$((i + 1)) ;;
        -*) ;;
        *) command=${COMP_WORDS[i]} && break ;;
        esac
    done
    case $command in
    '') words='daemon queue flush status history top backup restore check import setup probe install-client demo --config
        --version --help' ;;
    daemon) words='--once' ;;
    queue)
        words='--all --to --from --older --reason --yes --json'
        if ((i == COMP_CWORD - 1)); then
            words="$words list show explain hold release remove retry expire"
        else
            words="$words $(_pysendmail_named queue_id queue list --json)"
        fi
        ;;
    flush) words='--to --from --older --reason --wait' ;;
    status) words='--json' ;;
    history) words="--to --from --since --until --outcome --reason --chart --bounces --json $(_pysendmail_named queue_id queue list --json)" ;;
    import)
        words='--from --write --replace'
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    setup)
        words='--address --host --port --tls --tls-implicit --tls-ca-file --username --password-file --no-login'
        words="$words --keep-senders --to --no-test --yes --replace"
        ;;
    probe) words="--forget --from --to --json $(_pysendmail_named name status --json)" ;;
    backup) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    restore)
        words='--hold --yes'
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    install-client)
        words='--force'
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    esac
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$word")
}

# The values of one key in what a command answers.
_pysendmail_named() {
    pysendmail "${@:2}" 2>/dev/null | grep -o "\"$1\": \"[^\"]*\"" | cut -d '"' -f 4
}

complete -F _pysendmail pysendmail
