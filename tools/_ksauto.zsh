#compdef ksauto
# Completion of ksauto for zsh. What can be completed is asked of the command itself, so it is never behind.
_ksauto()
{
    local -a command items parts lines
    local line i
    for ((i = 2; i < CURRENT && $#command < 2; i++)); do
        case "${words[i]}" in
        --db) ((i++)) ;;
        -*) ;;
        *)
            command+=("${words[i]}")
            [[ "${command[1]}" == db ]] || break
            ;;
        esac
    done
    lines=("${(@f)$(${words[1]} $command --help=options 2>/dev/null)}")
    for line in $lines; do
        parts=("${(@ps:\t:)line}")
        if [[ "${parts[1]}" == "${words[CURRENT-1]}" && -n "${parts[2]}" ]]; then
            case ${parts[2]} in
            FILE | OUT | DIR | P* | *.npy) _files ;;
            DEVICE) compadd cpu cuda:0 ;;
            *) compadd -- ${=parts[3]} ;;
            esac
            return
        fi
        items+=("${parts[1]}:${parts[4]}")
    done
    _describe -o 'ksauto' items || _files
}
_ksauto "$@"
